"""Kill a run anywhere, start it again until it is done, and compare it with one that was left alone.

    python benchmarks/kill.py                         # every configuration: kills by event, then 20 at random moments
    python benchmarks/kill.py --configs sft dpo --random 5

``kill -9`` is placed by event: as soon as a function is at work (a training step, an evaluation, the sealing of a
checkpoint, the removal of an old one, the preparation of data) or a file appears (each file of a checkpoint, of the
cache, of the final weights). The killed process does nothing more, not even flush. What must hold in the end:

- final weights (sha256) and every line of metrics.jsonl, times aside, are those of the uninterrupted run;
- no more steps were taken than its own plus one checkpoint's distance for each kill, so that starting over fails.

The exit code is 1 where it does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAVE_STEPS = 4  # no multiple of logging_steps
SHARED = (
    "train.max_steps=14", f"train.save_steps={SAVE_STEPS}", "train.logging_steps=3", "eval.steps=5",
    "train.save_total_limit=2", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2", "lora.dropout=0.1",
    "eval.golden_rows=2", "eval.samples=1", "eval.max_new_tokens=4", "data.max_samples=48", "tracker=tensorboard",
)  # fmt: skip
CONFIGS: dict[str, tuple[str, ...]] = {
    "sft": (),
    "dpo": ("stage=dpo",),
    "kto": ("stage=kto",),
    "orpo": ("stage=orpo",),
    "rm": ("stage=rm",),
    "ppo": ("stage=ppo", "stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.max_new_tokens=6"),
    "grpo": (
        "stage=grpo", "stage.num_iterations=2", "stage.steps_per_generation=4", "stage.num_generations=2",
        "stage.max_new_tokens=6",
    ),
    "nf4": ("method=qlora",),
    "curriculum": (
        "phases=[{name: read, stage: pt}, {name: instruct, stage: sft}, {name: prefer, stage: dpo}]",
        "train.max_steps=7",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Event:
    """:param kind: ``function``, ``file`` or ``seconds``.
    :param name: of the function, a pattern for the file, or how many seconds after the start.
    :param nth: time that it is seen, counted from 1, with something else between.
    """

    kind: str
    name: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}:{self.nth}"


# ----------------------------------------------------------------------------------------------- in the killed process


def child(event: str, run_dir: Path, overrides: list[str]) -> None:
    """Run ftlab in this process, which a thread kills at the event."""
    kind, name, nth = event.split(":")
    seen: dict[str, Callable[[], bool]] = {
        "function": lambda: _is_at_work(name),
        "file": lambda: any(_is_new(path, started) for path in run_dir.parent.glob(name)),
        "seconds": lambda: time.monotonic() - begun > float(name),
        "none": lambda: False,
    }
    begun, started = time.monotonic(), time.time()

    def watch() -> None:
        times, before = 0, False
        while True:
            now = seen[kind]()
            times += now and not before
            if times >= int(nth):
                os.kill(os.getpid(), signal.SIGKILL)
            before = now
            time.sleep(0.0005 if kind != "seconds" else 0.005)

    sys.setswitchinterval(1e-4)
    threading.Thread(target=watch, daemon=True).start()
    _count_steps(run_dir.parent / "steps")
    sys.argv = ["ftlab", *overrides, f"run.dir={run_dir}"]
    from ftlab.main import main

    main()


def _is_new(path: Path, since: float) -> bool:
    """Written by this start of the run."""
    try:
        return path.stat().st_mtime > since
    except FileNotFoundError:
        return False


def _is_at_work(function: str) -> bool:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def _count_steps(file: Path) -> None:
    """A byte for each optimizer step that any start of the run took."""
    from transformers.trainer_callback import CallbackHandler

    ended = CallbackHandler.on_step_end

    def on_step_end(self: CallbackHandler, *args: object) -> object:
        with file.open("ab") as counter:
            counter.write(b".")
        return ended(self, *args)  # type: ignore[arg-type]

    CallbackHandler.on_step_end = on_step_end  # type: ignore[method-assign, assignment]


# ------------------------------------------------------------------------------------------------------------ outside


def start(folder: Path, overrides: tuple[str, ...], event: Event | None) -> int:
    """One start of the run in ``folder``; its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    given = [*SHARED, *overrides, f"data.cache={folder / 'cache'}"]
    command = [sys.executable, __file__, "--child", str(event or "none::1"), str(folder / "run"), *given]
    with (folder / "output.txt").open("a") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode


def ended(folder: Path) -> dict[str, object]:
    """What must be the same: hashes, and lines without their times."""
    from ftlab.rundir import TIMES, RunDir

    run_dir = RunDir.open(folder / "run")
    manifest = run_dir.manifest()
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in run_dir.logged()]
    return {
        "status": manifest["status"],
        "sha256": {name: phase["sha256"] for name, phase in manifest["phases"].items()},
        "metrics": lines,
    }


def steps_taken(folder: Path) -> int:
    file = folder / "steps"
    return file.stat().st_size if file.is_file() else 0


def events_of(folder: Path) -> list[Event]:
    """Every function, and every file that the uninterrupted run wrote, in the order in which they come: a run that is
    killed at one of them goes on to the next."""
    run = folder / "run"
    first = next(path for path in sorted(run.glob("phases/*/checkpoint-*")))
    written = [path for path in first.iterdir() if path.is_file()]
    files = [path.name for path in sorted(written, key=lambda path: path.stat().st_mtime_ns)]
    cached = {path.suffix for path in (folder / "cache").rglob("*") if path.is_file()}
    of_final = sorted(path.name for path in (run / "final").resolve().iterdir())
    return [
        *(Event("function", name) for name in ("update_manifest", "split_parts", "prepare")),
        *(Event("file", f"cache/**/*{suffix}") for suffix in sorted(cached)),
        *(Event("function", name) for name in ("begin", "evaluate", "generate", "_measured")),
        *(Event("function", "training_step", nth) for nth in (1, 5)),
        *(Event("file", f"run/phases/*/checkpoint-{SAVE_STEPS}/{name}") for name in files),
        *(Event("function", name, nth) for name, nth in (("training_step", 2), ("evaluate", 1), ("seal", 1))),
        *(Event("file", f"run/phases/*/checkpoint-{3 * SAVE_STEPS}/{name}") for name in files[:2]),
        *(Event("function", name) for name in ("rotate_checkpoints", "_save_final")),
        *(Event("file", f"run/phases/*/.final.tmp/{name}") for name in of_final),
        *(Event("file", name) for name in ("run/phases/*/final", "run/samples/*-after.json")),
    ]


def killed(folder: Path, overrides: tuple[str, ...], events: list[Event]) -> tuple[int, list[Event]]:
    """Start, kill and start again until the run ends by itself: how often it was started, and what killed it."""
    came = []
    for number, event in enumerate([*events, None], 1):
        code = start(folder, overrides, event)
        if code == -signal.SIGKILL and event is not None:
            came.append(event)
        elif code == 0:
            return number, came
        else:
            raise SystemExit(f"{folder}: ended with {code}\n{(folder / 'output.txt').read_text()[-3000:]}")
    raise AssertionError("the last start is not killed")


def compare(whole: Path, folder: Path, kills: int) -> str | None:
    """What is wrong, or None."""
    expected, found = ended(whole), ended(folder)
    limit = steps_taken(whole) + kills * SAVE_STEPS
    if expected["sha256"] != found["sha256"]:
        return "other weights"
    if expected["metrics"] != found["metrics"]:
        pairs = zip(expected["metrics"], found["metrics"])  # type: ignore[call-overload]
        first = next(((a, b) for a, b in pairs if a != b), "one has more lines")
        return f"other metrics: {first}"
    if steps_taken(folder) > limit:
        return f"{steps_taken(folder)} steps, more than {limit}"
    return None


def try_config(name: str, out: Path, randoms: int, seed: int, apart: bool) -> bool:
    overrides = CONFIGS[name]
    whole = out / name / "whole"
    shutil.rmtree(out / name, ignore_errors=True)
    begun = time.monotonic()
    if start(whole, overrides, None) != 0:
        raise SystemExit((whole / "output.txt").read_text()[-3000:])
    took = time.monotonic() - begun
    draw = random.Random(f"{name} {seed}")
    events = events_of(whole)
    if apart:
        trials = {f"{number:02d} {event}": [event] for number, event in enumerate(events)}
    else:
        # An event that does not come lets the run end: what is left of them goes to another one.
        trials = {"by event": events}
    trials["at random"] = [Event("seconds", f"{draw.uniform(0, took):.2f}") for _ in range(randoms)]
    good, total = True, 0
    for title, left in trials.items():
        while left:
            folder = out / name / f"{total:03d}"
            starts, came = killed(folder, overrides, left)
            wrong = compare(whole, folder, len(came))
            good, total = good and wrong is None, total + len(came)
            missed = f", {left[starts - 1]} did not come" if starts <= len(left) else ""
            result = wrong or "equal"
            print(f"{name:10} {title}: {len(came)} kills, {steps_taken(folder)} steps{missed}: {result}", flush=True)
            left = left[starts:]
            if wrong is None:
                shutil.rmtree(folder, ignore_errors=True)
    print(f"{name:10} {total} kills in all; {'every run equal' if good else 'NOT EQUAL'}", flush=True)
    return good


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return child(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--random", type=int, default=20, help="kills at random moments, of one run")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=Path("outputs/kill"))
    parser.add_argument("--apart", action="store_true", help="a run for each event, to find the one that does harm")
    given = parser.parse_args()
    good = [try_config(name, given.out.resolve(), given.random, given.seed, given.apart) for name in given.configs]
    return None if all(good) else sys.exit(1)


if __name__ == "__main__":
    main()
