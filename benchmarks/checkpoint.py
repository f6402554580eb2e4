"""What a checkpoint every few steps costs a run, beside the same run that saves its last step alone.

    python benchmarks/checkpoint.py                      # LoRA and full fine-tuning, 5 repeats, sides in turns
    python benchmarks/checkpoint.py --methods lora --steps 25 --repeats 1 --out checkpoint.json

Both sides are whole runs in processes of their own, each first in every other repeat, of a model with random weights
whose rows are all equally long. Wall seconds are those from the first step to the end of training, when the last
checkpoint is whole; final weights must be equal to the bit. What training waits at a step that is saved (its end until
transformers goes on) is measured too: the copy, and whatever is left to write of the checkpoint before.

A checkpoint is copied at its step and written beside the next ones, so a core that has nothing else to do makes a
difference: the table says how many there are and how many compute. The folder has to be on a real disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memory import make_model, overrides_of

LIMIT = 1.02
# Of each method: which of the sizes of memory.py, tokens of a row, rows of a step.
SHAPES = {"lora": ("tiny", 512, 6), "full": ("tiny", 512, 4)}
ROWS = 96  # of data; an epoch ends rarely
SIDES = ("with", "without")
NEVER = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--steps", type=int, default=65, help="of a run; its last is saved on both sides")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the runs are written; a temporary folder if not given")
    parser.add_argument("--out", type=Path, help="a file for every figure, as JSON")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)  # the measured run, in its own process
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    found: dict[str, Any] = {
        "every": options.every,
        "steps": options.steps,
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "machine": platform.machine(),
        "methods": {},
    }
    print("| method | ms a step | MB a checkpoint | ms at its step | s with | s without | ratio | of CPU | repeats |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for method in options.methods:
            repeats = compare(Path(folder), method, options)
            found["methods"][method] = told = summary(repeats, options)
            cells = [f"{told[name]:.{digits}f}" for name, digits in FIGURES.items()]
            print(f"| {method} | {' | '.join(cells)} | {options.repeats} |", flush=True)
    worst = max(told["ratio"] for told in found["methods"].values())
    print(f"\nmost of the medians: {worst:.3f}; at most {LIMIT} is wanted. Cores: {found['cores']}, ", end="")
    print(f"OMP_NUM_THREADS: {found['threads']}; a checkpoint every {options.every} of {options.steps} steps")
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    sys.exit(worst > LIMIT)


FIGURES = {"step_ms": 0, "checkpoint_mb": 1, "waited_ms": 1, "with": 1, "without": 1, "ratio": 3, "cpu_ratio": 3}


def compare(folder: Path, method: str, options: Any) -> list[dict[str, dict[str, Any]]]:
    """The repeats, each with what both sides came to."""
    size, length, rows = SHAPES[method]
    model = make_model(folder / size, size)
    data = folder / "rows.jsonl"
    text = "the quick brown fox jumps over the lazy dog 0123456789 " * (length // 16)
    lines = [json.dumps({"prompt": str(number), "completion": text}) for number in range(ROWS)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    repeats = []
    for repeat in range(options.repeats):
        sides: dict[str, dict[str, Any]] = {}
        for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
            overrides = [
                *overrides_of(folder, model, method, "sft", length, "cpu"),
                f"data.path={data}",
                f"train.micro_batch_size={rows}",
                f"train.max_steps={options.steps}",
                f"train.save_steps={options.every if side == 'with' else NEVER}",
                "train.logging_steps=1000",
                f"run.dir={folder / f'{method}-{repeat}-{side}'}",
            ]
            os.sync()
            command = [sys.executable, __file__, "--one", *overrides]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{' '.join(overrides)}\n{done.stdout}\n{done.stderr}")
            sides[side] = json.loads(done.stdout.splitlines()[-1])
        assert sides["with"]["weights"] == sides["without"]["weights"], f"not the same work: {sides}"
        repeats.append(sides)
    return repeats


def summary(repeats: Sequence[dict[str, dict[str, Any]]], options: Any) -> dict[str, Any]:
    """Medians over the repeats; ratios are of the two sides of each."""

    def median(of: Any) -> float:
        return statistics.median(of(sides["with"], sides["without"]) for sides in repeats)

    return {
        "step_ms": median(lambda _, without: without["wall"] / options.steps * 1e3),
        "checkpoint_mb": repeats[0]["with"]["bytes"] / 1e6,
        "waited_ms": median(lambda saved, _: statistics.median(saved["waited"][:-1] or [0.0]) * 1e3),
        "with": median(lambda saved, _: saved["wall"]),
        "without": median(lambda _, without: without["wall"]),
        "ratio": median(lambda saved, without: saved["wall"] / without["wall"]),
        "cpu_ratio": median(lambda saved, without: saved["cpu"] / without["cpu"]),
        "repeats": list(repeats),
    }


def measure(overrides: Sequence[str]) -> dict[str, Any]:
    """Run it here: seconds of training, seconds that it waited at each step that was saved, and what it came to."""
    from transformers import TrainerCallback

    from ftlab.config import compose
    from ftlab.engine.hooks import PhaseHooks
    from ftlab.engine.tasks import train
    from ftlab.rundir.checkpoints import checkpoints
    from ftlab.rundir.directory import RunDir
    from ftlab.rundir.files import size, weight_hashes

    run = compose.read(list(overrides), compose.config_loader())
    waited: list[float] = []

    class Probe(TrainerCallback):
        """The last of the callbacks."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

        def on_save(self, *_: Any, **__: Any) -> None:
            waited.append(time.perf_counter() - self.ended)

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.wall, self.cpu = time.perf_counter() - self.begun, time.process_time() - self.cpu

    probe = Probe()

    class Hooks(PhaseHooks):
        def trainer_built(self, phase: Any, trainer: Any) -> None:
            trainer.add_callback(probe)

    with Path(os.devnull).open("w") as nowhere:
        stdout, sys.stdout = sys.stdout, nowhere
        try:
            train(run, list(overrides), Hooks())
        finally:
            sys.stdout = stdout
    run_dir = RunDir.open(Path(run.run.dir or ""))
    (phase,) = (run_dir.phase(one.folder) for one in run_dir.plan().phases)
    return {
        "wall": probe.wall,
        "cpu": probe.cpu,
        "waited": waited,
        "bytes": size(checkpoints(phase)[0]),
        "weights": weight_hashes(run_dir.final),
    }


if __name__ == "__main__":
    main()
