"""No preset that ships fails on its defaults: each trains a small model of its family, as it would its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from tests.compatibility import save_family, three_steps
from tests.conftest import ROOT
from tests.families import FAMILIES
from tests.runs import make_run

_EMBEDDED = ("tiny", "tiny_instruct", "local")
PRESETS = sorted(
    path.stem for path in (ROOT / "conf" / "model").glob("[!_]*.yaml") if path.stem not in _EMBEDDED
)  # fmt: skip
_FAST = ("falcon_7b", "falcon_40b", "mixtral_8x7b")
SHORT = (
    "train.max_steps=3", "train.logging_steps=1", "data.max_samples=24", "data.cache=null",
    "data.split.validation=none", "data.split.golden=none", "eval.samples=0", "eval.golden_rows=0", "tracker=none",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {}


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in _FAST else pytest.mark.matrix) for name in PRESETS]
)
def test_a_preset_trains_on_its_defaults(preset, folders, tmp_path_factory, tmp_path):
    """lora, packing, its template and its recommended values; in fp32, for a loss to be compared."""
    family = make_run(f"model={preset}").model.architecture.family
    if family not in CONFIG_MAPPING:
        pytest.skip(f"{family} is Python of its own folder, which is not here")
    assert family in FAMILIES, "a family that ships has its row in tests/families.py"
    if family not in folders:
        folders[family] = save_family(family, tmp_path_factory.mktemp(family) / "model")
    run = make_run(f"model={preset}", f"model.path={folders[family]}", *SHORT, "hardware.precision=fp32")
    assert three_steps(run, tmp_path)[1] == "yes"
