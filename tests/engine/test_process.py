"""Several runs in one process: each computes what it would alone, logs for itself, and stops by itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.output import Output
from ftlab.engine.process import Interruption, handled_signals
from ftlab.engine.turns import TURNS
from ftlab.errors import Interrupted, Preempted
from ftlab.rundir.directory import RunDir
from tests.conftest import ROOT
from tests.runs import Stop, final_hash, held_out, logged, resume_run, train_run

SFT = (
    "data.max_samples=32", "train.max_steps=8", "train.save_steps=4", "train.logging_steps=2", "eval.steps=4",
    "lora.dropout=0.1", "eval.golden_rows=2", "eval.samples=1", "eval.max_new_tokens=4", "tracker=none",
)  # fmt: skip
# With another accumulation and another precision: accelerate keeps both once for the process.
DPO = (
    *SFT, "stage=dpo", "train.learning_rate=1e-3", "seed=7", "train.gradient_accumulation_steps=2",
    "train.micro_batch_size=2", "hardware.precision=bf16",
)  # fmt: skip


class Warns(PhaseHooks):
    """Raises a warning in the run's own work."""

    def __init__(self, text: str):
        self.text = text

    def model_loaded(self, phase):
        warnings.warn(self.text, stacklevel=1)


class WarnsAndStops(Warns, Stop):
    """Does that, and asks the run to stop."""

    def __init__(self, text: str, steps: int):
        Warns.__init__(self, text)
        Stop.__init__(self, steps)


class InThread(threading.Thread):
    """A run in a thread of its own; what it ended with."""

    def __init__(self, folder: Path, *overrides: str, hooks: PhaseHooks):
        super().__init__()
        self.folder, self.overrides, self.hooks = folder, overrides, hooks
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            train_run(self.folder, *self.overrides, hooks=self.hooks)
        except BaseException as error:
            self.error = error


LARGE_BLOCK = """
import ctypes, sys
from pathlib import Path
from tests.runs import BARE, train_run

class Heap(ctypes.Structure):  # mallinfo2 of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Heap

def from_system():
    before = mallinfo2().hblkhd
    block = bytearray(64 * 2**20)
    return mallinfo2().hblkhd - before

print(from_system())
train_run(Path(sys.argv[1]), *BARE, "hardware=cpu", "train.max_steps=1", "data.max_samples=8")
print(from_system())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_run_on_a_cpu_keeps_the_memory_of_its_large_blocks(tmp_path):
    command = [sys.executable, "-c", LARGE_BLOCK, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    before, *_, after = done.stdout.splitlines()
    assert int(before) > 64 * 2**20, "what this is about: a block of its own, which the system clears each time"
    assert int(after) == 0


@pytest.mark.matrix
def test_two_runs_at_once_are_what_each_is_alone(tmp_path):
    """To the bit, with dropout; one is told to stop in mid-training while the other goes on, and is continued."""
    sft = (*SFT, held_out(tmp_path, "instructions"))
    dpo = (*DPO, held_out(tmp_path, "preferences"))
    alone = [train_run(tmp_path / f"{name}-alone", *given) for name, given in (("sft", sft), ("dpo", dpo))]
    threads = [
        InThread(tmp_path / "sft", *sft, hooks=Warns("about the sft run")),
        InThread(tmp_path / "dpo", *dpo, hooks=WarnsAndStops("about the dpo run", 5)),
    ]
    for thread in threads:
        thread.join()
    assert threads[0].error is None
    assert isinstance(threads[1].error, Interrupted)
    other, stopped = RunDir.open(tmp_path / "sft"), RunDir.open(tmp_path / "dpo")
    assert stopped.manifest()["status"] == "interrupted" and other.manifest()["status"] == "finished"
    runs = (other, resume_run(tmp_path / "dpo"))
    for one, beside in zip(alone, runs):
        assert final_hash(one) == final_hash(beside)
        assert logged(one) == logged(beside)
    # They were at work at the same time, step by step.
    times = [[line["time"] for line in run.read_metrics() if "loss" in line] for run in (other, stopped)]
    assert max(min(one) for one in times) < min(max(one) for one in times)
    texts = [run.log.read_text(encoding="utf-8") for run in runs]
    for text, own, of_other in ((texts[0], "sft", "dpo"), (texts[1], "dpo", "sft")):
        assert text.count(f"about the {own} run") == 1
        assert f"the {of_other} run" not in text and f"{tmp_path}/{of_other}" not in text


def test_warnings_go_to_the_log_of_the_run_that_raises_them(tmp_path):
    """Each log has a warning once, whoever raised it first; outside of a run nothing is caught."""
    barrier = threading.Barrier(2)

    def work(name: str) -> None:
        with Output(tmp_path / name) as output:
            barrier.wait()
            for _ in range(3):
                warnings.warn("the same for all", UserWarning, stacklevel=1)
            warnings.warn(f"only {name}", UserWarning, stacklevel=1)
            output.note("the end")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, other in (("a", "b"), ("b", "a")):
        text = (tmp_path / name).read_text()
        assert text.count("UserWarning: the same for all") == 1 and text.count(f"only {name}") == 1
        assert f"only {other}" not in text and text.rstrip().endswith("the end")
    with pytest.warns(UserWarning, match="outside"):
        warnings.warn("outside", UserWarning, stacklevel=1)


def test_signals_reach_the_runs_of_other_threads():
    """Handlers can only be installed in the main thread; there they are, and a run elsewhere hears of the signal."""
    entered, codes = threading.Event(), []

    def work() -> None:
        try:
            with Interruption("Continue with x") as interruption:
                entered.set()
                while True:
                    interruption.check()
                    time.sleep(0.001)
        except Interrupted as error:
            codes.append((type(error), str(error)))

    before = signal.getsignal(signal.SIGTERM)
    with handled_signals():
        thread = threading.Thread(target=work)
        thread.start()
        entered.wait()
        signal.raise_signal(signal.SIGTERM)
        thread.join()
    assert codes == [(Preempted, "Continue with x")]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_turn_brings_the_random_state_back():
    """What one draws between two of its turns is what it would have drawn without the other."""
    import torch

    drawn: dict[str, list[float]] = {"a": [], "b": []}

    def work(name: str) -> None:
        with TURNS.taking() as turn:
            torch.manual_seed(3)
            for _ in range(40):
                drawn[name].append(torch.rand(1).item())
                turn.let_others_work()

    threads = [threading.Thread(target=work, args=(name,)) for name in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = torch.get_rng_state()
    torch.manual_seed(3)
    one_by_one = [torch.rand(1).item() for _ in range(40)]
    torch.set_rng_state(state)
    assert drawn == {"a": one_by_one, "b": one_by_one}


def test_a_run_that_is_stopped_while_it_waits_for_its_turn_leaves_the_queue():
    """Else every later run would wait for it, for ever."""
    is_over, at_work = threading.Event(), threading.Event()

    def work() -> None:
        with TURNS.taking():
            at_work.set()
            is_over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    at_work.wait()
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted), Interruption("Continue with x"), TURNS.taking():
        raise AssertionError("the other has not handed over")
    is_over.set()
    thread.join()
    with TURNS.taking() as turn:
        assert not turn.is_wanted


def test_the_process_is_left_as_it_was(tmp_path):
    """Its warnings are shown as before, and only what happened in a run is in that run's log."""
    shown, before = warnings.showwarning, [*warnings.filters]
    with Output(tmp_path / "log"):
        warnings.warn("in the run \udc80", UserWarning, stacklevel=1)  # which no file of text can hold
        warnings.warn("and more", UserWarning, stacklevel=1)
    assert warnings.showwarning is shown and warnings.filters == before
    assert "and more" in (tmp_path / "log").read_text(encoding="utf-8")
