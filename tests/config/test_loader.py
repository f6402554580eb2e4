"""Configs of which only the choices of groups are composed anew, beside Hydra's own."""

from __future__ import annotations

import shlex

import pytest
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from ftlab.config import compose
from ftlab.config.repository import ReadOnceRepository

LINES = (
    "stage=dpo lora.r=4",
    "lora.r=8 stage=dpo train.learning_rate=1e-3",
    "stage=dpo ~lora.alpha +train.own={a: [1, null]}",
    "train.max_steps=3 'phases=[{name: a, stage: sft}]' tracker=none run.dir=x",
    "data={name: mine} ++train.max_steps=4",
    "seed=7 hydra.sweep.dir=there",
    "hydra/launcher=shards seed=7",
)  # fmt: skip
WRONG = (
    "lora.rr=3",
    "+seed=4",
    "~lora.rr",
    "nothing/of=this",
    "stage=dpoo",
    "model@other=tiny",
    "stage=3",
    "lora.r=4,8",
)


@pytest.fixture(scope="module")
def of_hydra() -> ConfigLoaderImpl:
    ours = compose.config_loader()
    theirs = ConfigLoaderImpl(config_search_path=ours.get_search_path())
    theirs.repository = ReadOnceRepository(ours.get_search_path())
    return theirs


def composed(loader: ConfigLoaderImpl, line: str) -> object:
    """Every value and flag of the config, or the error."""
    try:
        cfg = loader.load_configuration("config", shlex.split(line), RunMode.RUN, from_shell=False)
    except (HydraException, ValueError) as error:
        return str(error), str(error.__cause__)
    flags = (OmegaConf.is_struct(cfg), OmegaConf.is_readonly(cfg), OmegaConf.is_readonly(cfg.hydra))
    return OmegaConf.to_container(cfg), flags


@pytest.mark.parametrize("line", [*LINES, *WRONG])
def test_it_composes_what_hydra_does(line, of_hydra):
    assert composed(compose.config_loader(), line) == composed(of_hydra, line)


def test_what_is_done_to_one_is_not_in_the_next():
    first = compose.compose(["stage=dpo"])
    OmegaConf.update(first, "lora.r", 999)
    first.hydra.overrides.task.append("other")
    second = compose.compose(["stage=dpo"])
    assert second.lora.r != 999 and second.hydra.overrides.task == ["stage=dpo"]


def test_the_version_that_hydra_behaves_as_is_that_of_now(of_hydra):
    before = version.VersionBase.instance().getbase()
    try:
        for base in ("1.2", "1.3"):
            version.setbase(base)
            assert composed(compose.config_loader(), "stage=kto") == composed(of_hydra, "stage=kto")
    finally:
        version.VersionBase.instance().version_base = before
