"""What several test files share: the config as a user's command line reaches it, and the command itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from ftlab.config import check, command_line, compose
from ftlab.errors import ConfigError
from ftlab.schema import Run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory) -> Iterator[None]:
    """Prepared data goes to a folder of the tests, also from the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def loader() -> ConfigLoaderImpl:
    return compose.config_loader()


@pytest.fixture(scope="session")
def make_run(loader) -> Callable[..., Run]:
    """``make_run("stage=dpo", ...)``: the validated run of a command line."""

    def make(*overrides: str, config_dir: Path | None = None) -> Run:
        chosen = compose.config_loader(str(config_dir)) if config_dir else loader
        return compose.read(overrides, chosen)

    return make


@pytest.fixture(scope="session")
def mistakes() -> Callable[[str], list[str]]:
    """``mistakes("lora.rr=3")``: what is said about each mistake of a command line; empty when there is none."""

    def find(line: str) -> list[str]:
        try:
            check.check(command_line.read(shlex.split(line)))
        except ConfigError as error:
            return [str(mistake) for mistake in error.mistakes]
        return []

    return find


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    """The environment of a subprocess: this checkout, an empty hub cache, no network."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
    }


@pytest.fixture
def ftlab(tmp_path, env) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ftlab("version")``: the real command, run in an empty folder with no network."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ftlab", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
