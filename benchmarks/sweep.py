"""Configs in turns on one device (``hydra/launcher=shards``) beside the same sweep one after the other.

    python benchmarks/sweep.py                    # 4 and 16 configs, each side 3 times in turns
    python benchmarks/sweep.py --configs 4 --repeats 1 --steps 80 stage=dpo data=preferences

Both are whole commands, start included, on the embedded model, and every final adapter of one side must be equal to the
bit to that of the other. Two different things are kept apart:

- **wall** of the whole sweep. Turns make nothing faster: what is measured is what they cost.
- **time to signal**: from the start of the command until the last config has its evaluation after an eighth of its
  steps, when one can say which of them are worth going on with.

Then what a turn itself costs (random states and accelerate's record put aside and brought back, with nothing to do in
between), and the peak memory of 8 configs beside that of one (the process's own, on a model with 100 million random
weights), and how often the configs of a sweep of dpo compute the reference of the same pairs.
A machine that does nothing else, please: wall seconds are what this is about.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.engine.turns import TURNS, Turn
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.names import TIMES

WALL, SIGNAL, TURN, MEMORY = 1.05, {4: 0.35, 16: 0.2}, 1.0, 1.3  # what is allowed; milliseconds of a turn
RANKS, RATES = (4, 8, 16, 32), ("1e-4", "3e-4", "1e-3", "3e-3")
EIGHTH = 8
QUIET = ("tracker=none", "eval.samples=0", "eval.golden_rows=0", "data.split.golden=none", "hardware=cpu")


@dataclass(frozen=True)
class Side:
    """:param wall: seconds of the command. :param signal: seconds until the last config's first evaluation."""

    wall: float
    signal: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=int, nargs="+", default=[4, 16], choices=(2, 4, 8, 16))
    parser.add_argument("--steps", type=int, default=160, help="of each config")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave out the model with 100 million weights")
    options, overrides = parser.parse_known_args()
    failures = []
    for count in options.configs:
        failures += compare(count, options.steps, options.repeats, overrides)
    cost = turn_milliseconds()
    print(f"a turn: {cost:.3f} ms")
    failures += [f"a turn takes {cost:.3f} ms"] if cost > TURN else []
    failures += reference_forwards(options.steps)
    if not options.no_memory:
        failures += memory()
    for failure in failures:
        print(f"over what is allowed: {failure}")
    sys.exit(bool(failures))


def compare(count: int, steps: int, repeats: int, overrides: Sequence[str]) -> list[str]:
    """Print a line of each side. Return what is over its limit."""
    sides: dict[str, list[Side]] = {"basic": [], "shards": []}
    for repeat in range(repeats):
        for launcher in sorted(sides, reverse=bool(repeat % 2)):  # each first in every other pair
            sides[launcher].append(run_sweep(launcher, count, steps, overrides))
    one_by_one, turns = (min(side.wall for side in sides[name]) for name in ("basic", "shards"))
    late, soon = (min(side.signal for side in sides[name]) for name in ("basic", "shards"))
    print(f"{count} configs of {steps} steps, min of {repeats}")
    print(
        f"  wall            one after the other {one_by_one:6.1f} s, in turns {turns:6.1f} s: {turns / one_by_one:.2f}"
    )
    share = f"{soon / one_by_one:.2f} of the wall"
    print(f"  time to signal  one after the other {late:6.1f} s, in turns {soon:6.1f} s: {share}")
    found = [f"{count} configs take {turns / one_by_one:.2f} of the wall"] if turns > WALL * one_by_one else []
    limit = SIGNAL.get(count, 1.0)
    return found + ([f"{count} configs: signal after {soon / one_by_one:.2f}"] if soon > limit * one_by_one else [])


def run_sweep(launcher: str, count: int, steps: int, overrides: Sequence[str]) -> Side:
    ranks, rates = RANKS[: max(1, count // 4)], RATES[: min(count, 4)]
    words = [
        f"lora.r={','.join(map(str, ranks))}", f"train.learning_rate={','.join(rates)}", f"train.max_steps={steps}",
        f"eval.steps={steps // EIGHTH}", "train.save_steps=1000", f"hydra/launcher={launcher}", *QUIET, *overrides,
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        wall = command(["-m", *words, "hydra.sweep.dir=sweep"], folder)
        runs = [RunDir.open(Path(folder) / "sweep" / str(number)) for number in range(count)]
        begun = time.time() - time.monotonic()
        started = begun + _STARTED[0]
        first = [next(line for line in run.read_metrics() if "eval_loss" in line and line["step"] > 0) for run in runs]
        hashes = {number: sha256(run.final / "adapter_model.safetensors") for number, run in enumerate(runs)}
        lines = {number: _lines(run) for number, run in enumerate(runs)}
    known = _KNOWN.setdefault((count, steps), (hashes, lines))
    assert known == (hashes, lines), "not the same training"
    return Side(wall, max(line["time"] for line in first) - started)


_KNOWN: dict[tuple[int, int], tuple[object, object]] = {}
_STARTED = [0.0]  # of the last command, on the monotonic clock


def _lines(run: RunDir) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in run.read_metrics()]


def command(words: Sequence[str], folder: str, environment: dict[str, str] | None = None) -> float:
    """Run ftlab, and return its wall seconds."""
    _STARTED[0] = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ftlab", *words], cwd=folder, env=os.environ | (environment or {}), capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - _STARTED[0]


def turn_milliseconds(turns: int = 2000) -> float:
    """Of handing over to another thread that has nothing to do, and being handed over to: two turns."""
    import accelerate
    import torch

    accelerate.PartialState(cpu=True)
    torch.rand(1)
    took: list[float] = []

    def work(turn: Turn) -> None:
        with turn.at_work():
            begun = time.perf_counter()
            for _ in range(turns):
                turn.let_others_work()
            took.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=work, args=(TURNS.reserve(turns),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1000 * statistics.mean(took) / (2 * turns)


def reference_forwards(steps: int) -> list[str]:
    """Sets of reference log-probabilities that three configs of dpo compute: those of the first alone, of the training
    and of the validation split."""
    words = [
        "stage=dpo",
        "data=preferences",
        "train.learning_rate=1e-4,3e-4,1e-3",
        f"train.max_steps={steps // 8}",
        *QUIET,
    ]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        command(["-m", *words, "hydra/launcher=shards", "hydra.sweep.dir=sweep"], folder, {"FTLAB_CACHE": cache})
        computed = [*Path(cache).glob("**/reference/*.npy")]
    print(f"dpo: {len(computed)} sets of reference log-probabilities for 3 configs")
    return [] if len(computed) <= 2 else [f"{len(computed)} sets of reference log-probabilities"]


def memory() -> list[str]:
    """The peak of the process that trains 8 configs, beside that of one."""
    sys.path.insert(0, str(Path(__file__).parent))
    from memory import make_model

    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "100M", "100M")
        words = [
            f"model.path={model}",
            "train.max_steps=4",
            "data.max_length=256",
            "data.split.validation=none",
            *QUIET,
        ]
        seeds = {count: ",".join(map(str, range(count))) for count in (1, 8)}
        peaks = {
            count: peak_mib(["-m", f"seed={seeds[count]}", *words, "hydra/launcher=shards"], folder) for count in (1, 8)
        }
    print(f"peak memory: one config {peaks[1]:.0f} MiB, 8 configs {peaks[8]:.0f} MiB: {peaks[8] / peaks[1]:.2f}")
    return [f"8 configs need {peaks[8] / peaks[1]:.2f} of the memory of one"] if peaks[8] > MEMORY * peaks[1] else []


def peak_mib(words: Sequence[str], folder: str) -> float:
    """The largest resident size of a command. Of its own process: nothing else may be waited for here meanwhile."""
    code = (
        "import resource, subprocess, sys; "
        "code = subprocess.run([sys.executable, '-m', 'ftlab', *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
