"""What several test files share: the config as a user's command line reaches it, and the command itself."""

from __future__ import annotations

import functools
import gc
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from ftlab.config import check, command_line, compose
from ftlab.errors import ConfigError
from ftlab.schema import Run
from tests.lines import end_of

# xdist tells its workers how wide its own terminal is; what a test runs has none.
os.environ.pop("COLUMNS", None)
os.unsetenv("COLUMNS")  # of readline, which pytest imports: it is not in os.environ, and processes inherit it
ROOT = Path(__file__).resolve().parents[1]


# Two workers take whole files: those of the longest tests first, or one would end with them while the other waits.
LONGEST = (
    "engine/test_kill.py", "engine/test_main_job.py", "distributed/test_ranks.py", "engine/test_control.py",
    "engine/test_resume.py", "engine/test_shards.py", "stages/test_ppo.py", "engine/test_curriculum.py",
    "stages/test_engines.py", "stages/test_matrix.py", "stages/test_first_step.py", "stages/test_grpo.py",
    "stages/test_sft_then_dpo.py", "stages/test_rl_means.py", "use/test_chat.py", "test_house.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_users(tmp_path_factory) -> Iterator[None]:
    """Prepared data goes to a folder of the tests, also from the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _no_garbage_of_modules() -> None:
    """What is imported by now stays to the end. A trainer collects garbage when it is done, and would look at all of it
    again: half the time of a small run."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def on_disk(monkeypatch) -> Callable[[Path], bool]:
    """Whether a file was waited for until it was on the disk, by whatever name it had then."""
    waited, fsync = set(), os.fsync

    def record(descriptor: int) -> None:
        fsync(descriptor)
        waited.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", record)
    return lambda path: path.stat().st_ino in waited


@pytest.fixture(scope="session")
def loader() -> ConfigLoaderImpl:
    return compose.config_loader()


@pytest.fixture(scope="session")
def make_run(loader) -> Callable[..., Run]:
    """``make_run("stage=dpo", ...)``: the validated run of a command line."""

    shipped = functools.cache(lambda *overrides: compose.read(overrides, loader))  # a run cannot be changed

    def make(*overrides: str, config_dir: Path | None = None) -> Run:
        return compose.read(overrides, compose.config_loader(str(config_dir))) if config_dir else shipped(*overrides)

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


def environment(folder: Path) -> dict[str, str]:
    """The environment of a subprocess: this checkout, an empty hub cache in a folder, no network."""
    paths = [str(ROOT), str(ROOT / "launchers"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
    }


@pytest.fixture
def env(tmp_path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def ftlab(tmp_path, env) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ftlab("version")``: the real command, run in an empty folder with no network. ``timeout``: in seconds."""

    def run(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ftlab", *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def ftlab_here(tmp_path, monkeypatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``ftlab`` without a process of its own, which takes seconds to import torch: for what does not depend on one."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: subprocess.CompletedProcess(words, *end_of(words))


@dataclass(frozen=True)
class Done:
    """How one of several command lines ended.

    :param heavy: those of ``HEAVY`` that it imported and no line before it had.
    :param left: the files in the current folder afterwards.
    """

    returncode: int
    stdout: str
    stderr: str
    heavy: list[str]
    left: list[str]


HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")
_EACH = f"""
import json, os, sys
from tests.lines import end_of

seen = set()
ends = []
for words in json.load(sys.stdin):
    end = end_of(words)
    heavy = [name for name in {HEAVY} if name in sys.modules and name not in seen]
    seen.update(heavy)
    ends.append([*end, heavy, sorted(os.listdir())])
print(json.dumps(ends))
"""


def end_of_each(lines: list[str], folder: Path, env: dict[str, str]) -> dict[str, Done]:
    """How each of several command lines ends, one after the other in a single process, which runs in ``folder``."""
    words = json.dumps([shlex.split(line) for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", _EACH], cwd=folder, env=env, input=words, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {line: Done(*end) for line, end in zip(lines, json.loads(done.stdout), strict=True)}


@pytest.fixture
def each(tmp_path, env) -> Callable[[list[str]], dict[str, Done]]:
    """``each(["version", "--help"])``: :func:`end_of_each` in an empty folder, with no network."""
    return lambda lines: end_of_each(lines, tmp_path, env)
