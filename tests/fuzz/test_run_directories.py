"""Run directories and their checkpoints, damaged at random: the weights and lines of the run, or a refusal that names
what is wrong; no traceback, and nothing lost."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from ftlab.rundir.checkpoints import checkpoints
from ftlab.rundir.directory import RunDir
from ftlab.rundir.names import CHECKPOINT_MANIFEST, TRAINER_STATE
from tests.fuzz.damage import DAMAGES, damaged
from tests.fuzz.runs import AGAIN, READERS, STARTS, Runs, make_runs
from tests.runs import final_hash, logged

FAST = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
LONG = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
# A run writes these anew at every start.
_WRITTEN = {"metrics.jsonl", "manifest.json", "log.txt", ".lock", "latest"}
_STRANGE = ("checkpoint-9", "checkpoint-04", "checkpoint-2-copy", "checkpoint-", "checkpoint-1e3", "tmp-checkpoint-5")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("fuzz"))


def contents(folder: Path) -> Counter[str]:
    """How often each content is there, in whatever file; what is written anew does not count."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.name not in _WRITTEN)


def do_damage(run_dir: RunDir, data: st.DataObject) -> None:
    for _ in range(data.draw(st.sampled_from((1, 1, 2, 3)), "damages")):
        places = sorted(path for path in run_dir.path.rglob("*"))
        place = data.draw(st.sampled_from(places), "place")
        note(f"damaged: {place.relative_to(run_dir.path)}")
        if place.parent.is_dir():  # not of a folder that is damaged already
            damaged(place, data.draw(DAMAGES, "damage"))
    phases = run_dir.path / "phases" / "01-sft"
    name = data.draw(st.sampled_from((None, None, None, *_STRANGE)), "strange")
    if name is not None and phases.is_dir() and not (phases / name).exists():
        whole = [path for path in checkpoints(phases) if path.is_dir()]
        kind = data.draw(st.sampled_from(("folder", "file", "link", "copy")), "kind")
        if kind == "copy" and whole:
            _copy(whole[0], phases / name)
        elif kind == "link":
            (phases / name).symlink_to(whole[0].name if whole else "nowhere")
        elif kind == "file":
            (phases / name).write_bytes(b"weights")
        else:
            (phases / name).mkdir()


def _copy(folder: Path, copy: Path) -> None:
    """What is a file, a folder or a link of it."""
    plain = (path.name for path in folder.rglob("*") if path.is_symlink() or path.is_dir() or path.is_file())
    shutil.copytree(folder, copy, symlinks=True, ignore=lambda _, names: {*names} - {*plain})


def is_half_written(checkpoint: Path) -> bool:
    """What is removed by design: what a process left that ended while it wrote."""
    return not any((checkpoint / name).exists() for name in (CHECKPOINT_MANIFEST, TRAINER_STATE))


def check(runs: Runs, data: st.DataObject, commands: tuple[str, ...]) -> None:
    kind = data.draw(st.sampled_from(("stopped", "finished")), "kind")
    run_dir = runs.copy(kind)
    do_damage(run_dir, data)
    command = data.draw(st.sampled_from(commands), "command")
    before = contents(run_dir.path)
    half_written = any(map(is_half_written, run_dir.path.glob("phases/*/checkpoint-*")))
    said = runs.told(command)
    note(said)
    assert said.strip(), "never in silence"
    if command in (*READERS, AGAIN):
        assert contents(run_dir.path) == before
        if runs.reproduced.final.exists():
            assert final_hash(runs.reproduced) == runs.hash
        return
    final = run_dir.final / "adapter_model.safetensors"
    if "Finished after" not in said:
        assert str(runs.folder) in said or "run.dir" in said, "a refusal names what is wrong"
        assert half_written or not before - contents(run_dir.path), "nothing is lost"
    elif "since the run finished" not in said:  # final weights that have changed or are gone are told
        assert final.is_file() and final_hash(run_dir) == runs.hash
        if kind == "stopped":
            assert logged(run_dir) == logged(RunDir(runs.finished))


@FAST
@given(data=st.data())
def test_a_damaged_run_is_told_or_ends_as_it_would_have(runs, data):
    check(runs, data, READERS + STARTS)  # and reproduce at length: it trains


@pytest.mark.fuzz
@pytest.mark.timeout(7200)  # some 0.3 seconds a case
@LONG
@given(data=st.data())
def test_a_damaged_run_is_told_or_ends_as_it_would_have_2000(runs, data):
    check(runs, data, (*READERS, *STARTS, *STARTS, AGAIN))
