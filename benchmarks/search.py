"""What early stopping and refilling save: whole commands, start included, on the embedded model and a CPU.

    python benchmarks/search.py asha                     # 27 configs with and without hydra.launcher.stop=asha
    python benchmarks/search.py refill                   # 16 trials of Optuna, four at a time, with and without
    python benchmarks/search.py asha --steps 45 --repeats 1 data.max_samples=200

- **asha**: a grid of three ranks and nine learning rates in turns (hydra/launcher=shards, nine turns each), once to the
  end and once with successive halving: after one turn and after three the best third goes on. Told are the ratio of the
  walls, and at which place of the whole grid the winner stands. Every config that was not stopped must have the weights
  that it has in the grid.
- **refill**: Optuna proposes trials of different lengths at random, so that both sides train the same ones. With
  refilling a trial that has ended is replaced at once; without, those that are proposed together are waited for. Told
  is how many trials are over in a minute, under hydra/launcher=gpus (as many processes as --devices), and in turns with
  successive halving. There the one device has no gap to fill: both sides keep it at work, and what they differ in is
  how many steps the rule lets them train, so that is told beside.

A machine that does nothing else, please. The exit code is 1 where a limit is missed: 0.4 of the grid's wall, a winner
of the first three places, not fewer trials a minute with refilling.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import sha256
from ftlab.rundir.leaderboard import Entry, read_sweep
from ftlab.rundir.sweep import SweepDir

WALL, PLACE = 0.4, 3  # of the grid, at most
RANKS, RATES = (4, 8, 16), ("1e-6", "3e-6", "1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "3e-3", "1e-2")
TURNS = 9
QUIET = ("tracker=none", "eval.samples=0", "eval.golden_rows=0", "data.split.golden=none", "hardware=cpu")
# The command with trials that are waited for, as launchers have it that take no jobs while they train others.
WITHOUT = (
    "import runpy, sys; from ftlab.engine import trials; run = trials.run_trials; "
    "trials.run_trials = lambda *given: run(*given[:3], None); runpy.run_module('ftlab', run_name='__main__')"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("asha", "refill"))
    parser.add_argument(
        "--steps", type=int, default=180, help="of a config of asha, and of the longest trial of refill"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each side, in turns; the fastest counts")
    parser.add_argument("--trials", type=int, default=16, help="of refill")
    parser.add_argument("--jobs", type=int, default=4, help="trials at a time (hydra.sweeper.n_jobs)")
    parser.add_argument("--devices", type=int, default=2, help="processes of hydra/launcher=gpus")
    options, overrides = parser.parse_known_args()
    missed = asha(options, overrides) if options.what == "asha" else refill(options, overrides)
    for line in missed:
        print(f"missed: {line}")
    sys.exit(bool(missed))


def asha(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    turn = options.steps // TURNS
    words = [
        f"lora.r={','.join(map(str, RANKS))}", f"train.learning_rate={','.join(RATES)}",
        f"train.max_steps={options.steps}", f"eval.steps={turn}", "train.save_steps=1000", "sweep.objective=eval_loss",
        "hydra/launcher=shards", f"hydra.launcher.shards={TURNS}", *QUIET, *overrides,
    ]  # fmt: skip
    walls: dict[str, list[float]] = {"none": [], "asha": []}
    missed = []
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            for rule in sorted(walls, reverse=bool(repeat % 2)):
                more = (f"hydra.launcher.stop={rule}", f"hydra.sweep.dir={rule}")
                walls[rule].append(command(["-m", "ftlab", "-m", *words, *more], folder))
            grid, halved = (board(folder, rule) for rule in walls)
            best = min((entry for entry in halved if entry.state == "finished"), key=lambda entry: entry.rank or 0)
            place = next(entry.rank for entry in grid if entry.number == best.number)
            # A rate may be too high for some: those fail in both.
            weights = {entry.number: _weights(entry) for entry in grid if entry.state == "finished"}
            assert all(_weights(one) == weights[one.number] for one in halved if one.state == "finished"), (
                "other weights"
            )
            missed += [f"the winner is at place {place} of the grid"] if place is None or place > PLACE else []
    whole, some = min(walls["none"]), min(walls["asha"])
    finished = sum(entry.state == "finished" for entry in halved)
    print(f"27 configs of {options.steps} steps in turns, min of {options.repeats}")
    print(f"  wall    to the end {whole:6.1f} s, asha {some:6.1f} s: {some / whole:.2f}; {finished} trained to the end")
    print(f"  winner  {' '.join(best.overrides)}: at place {place} of the grid")
    return missed + ([f"{some / whole:.2f} of the grid's wall"] if some > WALL * whole else [])


def board(folder: str, name: str) -> tuple[Entry, ...]:
    return read_sweep(SweepDir(Path(folder) / name)).entries


def _weights(entry: Entry) -> str:
    assert entry.path is not None
    return sha256(RunDir(entry.path).final / "adapter_model.safetensors")


def refill(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    turns = ("hydra/launcher=shards", f"hydra.launcher.shards={TURNS}", "hydra.launcher.stop=asha")
    pool = ("hydra/launcher=gpus", f"hydra.launcher.devices={options.devices}")
    lengths = ",".join(str(max(1, options.steps // part)) for part in (8, 4, 2, 1))
    of_pool = f"train.max_steps={lengths}", f"eval.steps={options.steps}"
    of_turns = f"train.max_steps={options.steps // 2}", f"eval.steps={max(1, options.steps // 2 // TURNS)}"
    rates = compare("gpus", [*pool, *of_pool], options, overrides)
    compare("in turns with asha", [*turns, *of_turns], options, overrides)
    return ["gpus: fewer trials a minute with refilling"] if rates["with"] < rates["without"] else []


def compare(name: str, words: Sequence[str], options: argparse.Namespace, overrides: Sequence[str]) -> dict[str, float]:
    """Print a line of each side. Return its trials a minute."""
    words = [
        "-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", f"hydra.sweeper.n_trials={options.trials}",
        f"hydra.sweeper.n_jobs={options.jobs}", "train.learning_rate=tag(log, interval(1e-6, 1e-2))",
        "sweep.objective=eval_loss", "train.save_steps=1000", *QUIET, *words, *overrides, "hydra.sweep.dir=sweep",
    ]  # fmt: skip
    sides = {"with": ["-m", "ftlab"], "without": ["-c", WITHOUT]}
    walls: dict[str, list[float]] = {side: [] for side in sides}
    ends: dict[str, dict[str, int]] = {}
    steps: dict[str, int] = {}
    for repeat in range(options.repeats):
        for side in sorted(sides, reverse=bool(repeat % 2)):
            with tempfile.TemporaryDirectory() as folder:
                walls[side].append(command([*sides[side], *words], folder))
                table = read_sweep(SweepDir(Path(folder) / "sweep"))
                ends[side], steps[side] = table.states, sum(entry.step for entry in table.entries)
    rates = {side: 60 * sum(ends[side].values()) / min(taken) for side, taken in walls.items()}
    print(f"{options.trials} trials, {options.jobs} at a time, {name}, min of {options.repeats}")
    for side, rate in rates.items():
        of = ", ".join(f"{count} {state}" for state, count in ends[side].items())
        print(f"  {side:8}{min(walls[side]):6.1f} s, {rate:.2f} trials a minute ({of}; {steps[side]} steps)")
    print(f"  ratio   {rates['with'] / rates['without']:.2f}")
    return rates


def command(words: Sequence[str], folder: str) -> float:
    """Run Python, and return its wall seconds."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, *words], cwd=folder, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
