"""A model folder damaged at random is refused in words, or loads with its own weights: never a traceback."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftlab.errors import FtlabError
from ftlab.model.load import load_model
from ftlab.policy.tokens import load_tokens
from ftlab.preflight.check import check
from ftlab.pretrained.weights import read_shapes
from tests.conftest import ROOT
from tests.runs import make_run

TINY = ROOT / "models" / "tiny"
FILES = sorted(path.name for path in TINY.iterdir() if path.name != "README.md")
JSONS = [name for name in FILES if name.endswith(".json")]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.sampled_from([0, 1, 2, 3, 64, 129, 2304, 1e9, -0.5]),
    st.text(max_size=8), st.lists(st.integers(-3, 3), max_size=3), st.dictionaries(st.text(max_size=4), st.integers()),
)  # fmt: skip


@st.composite
def damages(draw: Any) -> tuple[str, ...]:
    """What is done to which file; numbers are shares of its length, so that they fit every file."""
    kind = draw(st.sampled_from(["flip", "cut", "empty", "garbage", "value", "key", "folder", "link", "gone", "json"]))
    file = draw(st.sampled_from(JSONS if kind in ("value", "key") else FILES))
    return kind, file, draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7)), draw(VALUES)


def damage(folder: Path, kind: str, file: str, share: float, bit: int, value: Any) -> None:
    path = folder / file
    data = bytearray(path.read_bytes())
    path.unlink()
    if kind == "flip":
        # Of weights mostly the header: a bit among the numbers makes other numbers, which nothing here can tell.
        where = int(share * (min(len(data), 4000) if file.endswith(".safetensors") else len(data)))
        data[where] ^= 1 << bit
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: int(share * len(data))])
    elif kind == "empty":
        path.touch()
    elif kind == "garbage":
        path.write_bytes(bytes((7 * at + bit) % 256 for at in range(int(share * 300))))
    elif kind == "json":
        path.write_text(json.dumps(value))
    elif kind in ("value", "key"):
        values = json.loads(data)
        key = sorted(values)[int(share * len(values))]
        if kind == "value":
            values[key] = value
        else:
            del values[key]
        path.write_text(json.dumps(values))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(folder / ("nowhere" if bit < 4 else file))


@cache
def whole_weights() -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(TINY / "model.safetensors")


def judge(what: tuple[Any, ...]) -> None:
    """A folder with one thing wrong: an error in words, or a model whose every weight is from the file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        shutil.copytree(TINY, folder)
        damage(folder, *what)
        try:
            run = make_run.__wrapped__(f"model.path={folder}", "hardware=cpu")
            check(run)
            load_tokens(run)
            model = load_model(run)
        except FtlabError as error:
            assert str(error).strip()
            return
        file = folder / "model.safetensors"
        assert set(read_shapes(file)) == set(whole_weights())
        state = model.state_dict()
        if what[1] != "model.safetensors":
            for name, tensor in whole_weights().items():
                assert name in state and state[name].equal(tensor), name


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damages())
def test_a_folder_damaged_at_random(what):
    judge(what)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)  # some 0.3 seconds a case
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(damages())
def test_a_folder_damaged_at_random_at_length(what):
    judge(what)
