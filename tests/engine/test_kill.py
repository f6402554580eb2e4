"""A run that meets with everything: the kill test of the benchmarks, a small one. Processes, signals, disk are real."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import transformers.trainer

import ftlab
from benchmarks import kill
from benchmarks.kill import Different, Event
from ftlab.engine.process import Interruption
from ftlab.errors import Interrupted, RunDirError
from ftlab.planning import make_plan
from ftlab.rundir.checkpoints import is_whole, seal
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.names import CHECKPOINT_MANIFEST
from tests.mixtures import save_mixture, shape_overrides
from tests.runs import create_run, logged, make_run, resume_run, train_run

CHECKPOINT = "run/phases/*/checkpoint"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """As ``kill.start`` leaves a run that nothing happened to, made without a process."""
    folder = tmp_path_factory.mktemp("kill") / "whole"
    run = train_run(folder / "disk" / "run", *kill.SHARED, f"data.cache={folder / 'disk' / 'cache'}")
    (folder / "steps").write_bytes(b"." * run.manifest()["phases"]["sft"]["steps"])
    return folder


@pytest.mark.kill
def test_a_run_that_is_killed_and_damaged_ends_as_if_nothing_had_been(tmp_path, whole):
    """When its second checkpoint is written, of which a bit is then turned over: it goes back to the one before. What
    happens in the middle of the first checkpoint, ``make test-kill`` shows; what signals and a full disk do,
    test_resume and test_disk too."""
    events = [Event("file", f"{CHECKPOINT}-8/{CHECKPOINT_MANIFEST}", flip="optimizer.pt")]
    came = list(kill.stopped(tmp_path / "run", (), events, random.Random(0)))
    assert came == events
    kill.compare(whole, tmp_path / "run", came)


@pytest.mark.kill
def test_a_run_that_meets_with_everything_ends_as_if_nothing_had_been(tmp_path, whole):
    """Each start goes on from what the one before left: half a checkpoint, an early one, half a removed one, ..."""
    events = [
        Event("file", f"{CHECKPOINT}-4/optimizer.pt"),
        Event("function", "training_step", what="SIGTERM"),  # saves at step 1
        Event("gone", f"{CHECKPOINT}-1/[!.]*"),
        Event("file", f"{CHECKPOINT}-12/{CHECKPOINT_MANIFEST}", flip="optimizer.pt"),
        Event("function", "_save_final", what="fill"),
    ]
    folder = tmp_path / "run"
    with ExitStack() as stack:
        try:
            stack.enter_context(kill.small_disk(folder / "disk", 48 << 20))
        except PermissionError:
            events = [event for event in events if event.what != "fill"]
        came = list(kill.stopped(folder, (), events, random.Random(0)))
        assert came == events
        kill.compare(whole, folder, came)


@pytest.mark.kill
def test_a_whole_mixture_of_experts_that_is_killed_ends_as_if_nothing_had_been(tmp_path):
    """Its weights are saved under other names than those of its modules."""
    mixtral = save_mixture(tmp_path / "mixtral", "mixtral")
    given = (*shape_overrides(mixtral, "mixtral"), "method=full", "train.learning_rate=1e-2", "train.keep_best=true")
    assert kill.start(tmp_path / "whole", given, None)[0] == 0
    events = [
        Event("file", f"{CHECKPOINT}-8/{CHECKPOINT_MANIFEST}", flip="optimizer.pt"),
        Event("function", "training_step", nth=5, what="SIGTERM"),
        Event("file", f"{CHECKPOINT}-12/{CHECKPOINT_MANIFEST}"),
    ]
    came = list(kill.stopped(tmp_path / "run", given, events, random.Random(0)))
    assert came == events
    kill.compare(tmp_path / "whole", tmp_path / "run", came)


def test_the_functions_that_a_run_is_killed_in_are_there(whole):
    """One that was renamed would never be seen, and nobody would notice."""
    files = [*Path(ftlab.__file__).parent.rglob("*.py"), Path(transformers.trainer.__file__)]
    sources = "".join(file.read_text() for file in files)
    names = {event.name for event in [*kill.kills(whole), *kill.fills(whole)] if event.when == "function"}
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\(", sources)] == []


@pytest.mark.parametrize("other", ["weights", "metrics", "status", "steps"])
def test_a_run_that_is_not_the_same_is_found(tmp_path, whole, other):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, symlinks=True)
    manifest, metrics = folder / "disk/run/manifest.json", folder / "disk/run/metrics.jsonl"
    found = json.loads(manifest.read_text())
    if other == "weights":
        found["phases"]["sft"]["sha256"]["adapter_model.safetensors"] = "0" * 64
    elif other == "status":
        found["status"] = "running"
    elif other == "metrics":
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    else:  # of a run that was killed once and began from nothing
        (folder / "steps").write_bytes(b"." * (14 + kill.SAVE_STEPS + 1))
    manifest.write_text(json.dumps(found))
    with pytest.raises(Different, match=f"other {other}" if other != "steps" else "19 steps, more than 18"):
        kill.compare(whole, folder, [Event("seconds", "1")])


def test_a_run_that_was_killed_when_it_was_done_is_finished(tmp_path, whole):
    """After the last phase was written down, before the run was."""
    shutil.copytree(whole / "disk" / "run", tmp_path / "run", symlinks=True)
    Manifest(RunDir.open(tmp_path / "run")).record(status="running")
    assert resume_run(tmp_path / "run").manifest()["status"] == "finished"


def test_a_run_that_was_killed_as_its_folder_was_made_begins_there(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.yaml.4711.tmp").write_text("ver")
    given = [f"run.dir={tmp_path / 'run'}"]
    assert create_run(make_plan(make_run(*given), given)).path == tmp_path / "run"


def test_a_disk_that_is_still_full_is_told(tmp_path):
    given = [f"run.dir={tmp_path / 'run'}"]
    try:
        with kill.small_disk(tmp_path / "run", 1 << 20):
            plan = make_plan(make_run(*given), given)
            create_run(plan)
            with suppress(OSError):
                (tmp_path / "run" / "filled").write_bytes(bytes(2 << 20))
            with pytest.raises(RunDirError, match=r"run\.dir=.* cannot be written: No space left on device\. Give"):
                create_run(plan)
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_outside_of_training_ends_with_its_code(number, code):
    """Wherever it comes, also while the run is only being written down."""
    with pytest.raises(Interrupted, match="Continue with") as caught, Interruption("Continue with"):
        signal.raise_signal(number)
    assert caught.value.exit_code == code


def test_no_bit_of_a_checkpoint_can_change_unseen(tmp_path):
    """Nor one of its manifest, whatever that makes of it: another hash, another name, no JSON, no text."""
    checkpoint = tmp_path / "checkpoint-4"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"01")
    seal(checkpoint)
    assert is_whole(checkpoint)
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        for bit in range(8 * len(content)):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            assert not is_whole(checkpoint), (file.name, bit)
        file.write_bytes(content)


@pytest.mark.kill
def test_a_run_goes_on_under_another_number_of_threads_and_says_so(tmp_path, env):
    """In processes of its own. The rows are the same in the same order; sums may be cut elsewhere, so that weights
    equal to the bit are promised for an equal number of threads."""
    given = [*kill.SHARED, "tracker=none", f"data.cache={tmp_path / 'cache'}"]

    def start(name: str, threads: int) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "ftlab", *given, f"run.dir={tmp_path / name}"]
        number = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        return subprocess.Popen(words, cwd=tmp_path, env=env | number, stdout=subprocess.PIPE, text=True)

    whole = start("whole", 1)
    whole.communicate(timeout=300)
    stopped = start("stopped", 1)
    while stopped.poll() is None and not list(tmp_path.glob(f"stopped/phases/*/checkpoint-4/{CHECKPOINT_MANIFEST}")):
        time.sleep(0.05)
    stopped.kill()
    stopped.communicate()
    resumed = start("stopped", 2)
    said, _ = resumed.communicate(timeout=300)
    assert (whole.returncode, stopped.returncode, resumed.returncode) == (0, -signal.SIGKILL, 0)
    assert "Not as at its first start: threads 1 then, 2 now." in " ".join(said.split())
    alone, both = (logged(RunDir.open(tmp_path / name)) for name in ("whole", "stopped"))
    assert [line["step"] for line in both] == [line["step"] for line in alone]
    for one, other in zip(alone, both):
        assert other.get("tokens") == one.get("tokens")
        assert [other.get(name) for name in ("loss", "eval_loss")] == pytest.approx(
            [one.get(name) for name in ("loss", "eval_loss")], abs=1e-4
        )
