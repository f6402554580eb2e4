"""Stop a run anywhere, start it again until it is done, and compare it with one that was left alone.

    python benchmarks/kill.py                         # every configuration, stopped in every way
    python benchmarks/kill.py --configs sft dpo --how kill term --random 5

What happens to a run is placed by event, as soon as a function is at work (a training step, an evaluation, the sealing
of a checkpoint, the removal of an old one, the preparation of data) or a file appears (each file of a checkpoint, of
the cache, of the final weights), or at a random moment after its start:

- ``kill``: SIGKILL; the process does nothing more, not even flush. By event, then at random moments.
- ``term``: SIGTERM and SIGUSR1 in turns, at random moments. The run must save at the next step and end with 75.
- ``flip``: SIGKILL late in the run, then one bit of the newest whole checkpoint is turned over, in each of its files in
  turn. The next start must say so and go on from the checkpoint before.
- ``disk``: the disk is full from one moment to the next. The run must say so and end, and its checkpoints be whole;
  then the disk is made larger. A small tmpfs, which takes an administrator.
- ``phases``: a curriculum, one phase after the other with ``run.phases``.

What must hold in the end:

- final weights (sha256) and every line of metrics.jsonl, times aside, are those of the uninterrupted run;
- no more steps were taken than its own plus, for each stop, those since the last checkpoint: one checkpoint's distance
  and those that were taken while the next one was being written, two where the newest checkpoint was damaged, one step
  where the run was told to stop. So starting over fails.

The exit code is 1 where it does not hold.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ftlab.rundir.checkpoints import checkpoints, is_whole
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import size
from ftlab.rundir.names import CHECKPOINT_MANIFEST, TIMES

SAVE_STEPS = 4  # no multiple of logging_steps
SHARED = (
    "train.max_steps=14", f"train.save_steps={SAVE_STEPS}", "train.logging_steps=3", "eval.steps=5",
    "train.save_total_limit=2", "train.micro_batch_size=2", "train.gradient_accumulation_steps=2", "lora.dropout=0.1",
    "eval.golden_rows=2", "eval.samples=1", "eval.max_new_tokens=4", "eval.generate_every=6", "data.max_samples=48",
    "tracker=tensorboard",
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
HOWS = ("kill", "term", "flip", "disk", "phases")
# What a start may end with. A signal that comes before ftlab listens to it ends the process where nothing is lost yet.
CODES = {"SIGKILL": (-9,), "SIGTERM": (75, -15), "SIGUSR1": (75, -10), "fill": (1,)}
LAST_WORDS = {"SIGTERM": "Interrupted", "SIGUSR1": "Interrupted", "fill": "is full"}  # of a start that could speak
STEPS_LOST = {"SIGKILL": SAVE_STEPS, "SIGTERM": 1, "SIGUSR1": 1, "fill": SAVE_STEPS + 1}  # it is told a step later
_SPARE = 32 << 20  # bytes of a small disk beside what the run takes; a checkpoint leaves 16 MiB free


class Different(Exception):
    """A run that was stopped is not what the uninterrupted one is; says in what."""


@dataclass(frozen=True)
class Event:
    """Something that happens to a start of a run.

    :param when: ``function``, ``file``, ``gone`` or ``seconds``.
    :param name: of the function, a pattern for the file that appears or goes, or how many seconds after the start.
    :param nth: time that it is seen, counted from 1, with something else between.
    :param what: the signal that is sent, or ``fill``: the disk is.
    :param flip: the file of the newest whole checkpoint of which one bit is turned over afterwards.
    """

    when: str
    name: str
    nth: int = 1
    what: str = "SIGKILL"
    flip: str | None = None

    @property
    def steps_lost(self) -> int:
        return STEPS_LOST[self.what] + (SAVE_STEPS if self.flip else 0)

    def __str__(self) -> str:
        return f"{self.when}:{self.name}:{self.nth}:{self.what}"


# ----------------------------------------------------------------------------------------------------------- one run


def start(folder: Path, overrides: Sequence[str], event: Event | None) -> tuple[int, str]:
    """One start of the run in ``folder``; its exit code, and what it said."""
    disk = folder / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    child = Path(__file__).with_name("kill_start.py")
    given = [*SHARED, *overrides, f"data.cache={disk / 'cache'}"]
    command = [sys.executable, str(child), str(event or "none"), str(folder), *given]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with (folder / "output.txt").open("a") as output:
        output.write(f"{done.stdout}--- {event or 'left alone'}: ended with {done.returncode}\n")
    return done.returncode, done.stdout


def stopped(folder: Path, overrides: Sequence[str], events: Sequence[Event], draw: random.Random) -> Iterator[Event]:
    """Start the run once for each event and once more, or until it ends by itself: each event that came.

    :raises Different: a start did not end as it must.
    """
    torn: Path | None = None
    for event in [*events, None]:
        code, said = start(folder, overrides, event)
        if torn is not None and f"{torn} is torn" not in said:
            raise Different(f"{torn} was damaged, and nothing was said of it")
        if code == 0:
            return
        if event is None or code not in CODES[event.what]:
            raise Different(f"ended with {code} at {event}\n{said[-3000:]}")
        # Not anywhere: a library's thread may have died of it before, with a traceback.
        if code > 0 and LAST_WORDS[event.what] not in said.splitlines()[-1]:
            raise Different(f"did not say {LAST_WORDS[event.what]!r} at {event}\n{said[-3000:]}")
        if event.what == "fill":
            _check_full(folder / "disk")
        torn = _flipped(folder / "disk", event.flip, draw) if event.flip else None
        yield event


def _phase_folders(disk: Path) -> list[Path]:
    return sorted(disk.glob("run/phases/*"))


def _flipped(disk: Path, name: str, draw: random.Random) -> Path:
    """The newest whole checkpoint, with one bit of a file turned over."""
    found = [one for folder in reversed(_phase_folders(disk)) for one in checkpoints(folder) if is_whole(one)]
    content = bytearray((found[0] / name).read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (found[0] / name).write_bytes(content)
    return found[0]


def _check_full(disk: Path) -> None:
    """Give it as much room as there was before.

    :raises Different: a checkpoint is not whole.
    """
    torn = [one for folder in _phase_folders(disk) for one in checkpoints(folder) if not is_whole(one)]
    if torn:
        raise Different(f"a full disk left {torn[0]} behind")
    larger = shutil.disk_usage(disk).total + max(file.stat().st_size for file in disk.glob("filled-*"))
    subprocess.run(["mount", "-o", f"remount,size={larger}", str(disk)], check=True)


def ended(folder: Path) -> dict[str, object]:
    """What must be the same: hashes, and lines without their times."""
    run_dir = RunDir.open(folder / "disk" / "run")
    manifest = run_dir.manifest()
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in run_dir.read_metrics()]
    return {
        "status": manifest["status"],
        "weights": {name: phase["sha256"] for name, phase in manifest["phases"].items()},
        "metrics": lines,
    }


def steps_taken(folder: Path) -> int:
    return sum(map(len, _steps_of_starts(folder)))


def steps_beside(folder: Path) -> int:
    """Of the starts that were stopped, the last steps, during which a checkpoint was being written."""
    return sum(len(steps) - len(steps.rstrip(b",")) for steps in _steps_of_starts(folder)[:-1])


def _steps_of_starts(folder: Path) -> list[bytes]:
    """The steps of each start, as ``kill_start.py`` writes them."""
    file = folder / "steps"
    return file.read_bytes().split(b"|") if file.is_file() else []


def compare(whole: Path, folder: Path, came: Sequence[Event]) -> None:
    """:raises Different: the run that was stopped by the events that came is not what the whole one is."""
    expected, found = ended(whole), ended(folder)
    for key in ("status", "weights"):
        if expected[key] != found[key]:
            raise Different(f"other {key}: {found[key]}, not {expected[key]}")
    if expected["metrics"] != found["metrics"]:
        pairs = itertools.zip_longest(expected["metrics"], found["metrics"])  # type: ignore[call-overload]
        raise Different(f"other metrics: {next((a, b) for a, b in pairs if a != b)}")
    limit = steps_taken(whole) + sum(event.steps_lost for event in came) + steps_beside(folder)
    if steps_taken(folder) > limit:
        raise Different(f"{steps_taken(folder)} steps, more than {limit}")


# ------------------------------------------------------------------------------------------------------- small disks


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """A tmpfs for a run, of which nothing is left afterwards.

    :raises PermissionError: mounting takes an administrator.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        raise PermissionError("mounting a small disk takes an administrator")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ------------------------------------------------------------------------------------------------------- what happens


def kills(whole: Path) -> list[Event]:
    """Every function, and every file that the uninterrupted run wrote, in the order in which they come: a run that is
    killed at one of them goes on to the next."""
    disk = whole / "disk"
    first, last = _phase_folders(disk)[0], _phase_folders(disk)[-1]
    late = checkpoints(last)[-1]
    step = int(late.name.rpartition("-")[2])
    of_checkpoint = [path.name for path in _written(late.iterdir())]
    suffixes = dict.fromkeys(path.suffix for path in _written((disk / "cache").rglob("*")))
    phase = first.name.partition("-")[2]
    between = [*_at_end_of(first), Event("function", "_load_model")] if first != last else []
    return [
        *(Event("function", name) for name in ("record", "prepare")),
        *(Event("file", f"cache/**/*{suffix}") for suffix in suffixes),
        *(Event("function", name) for name in ("begin", "evaluate", "generate")),
        Event("file", "run/samples/*-before.json"),
        *(Event("function", "training_step", nth) for nth in (1, 5)),
        *(Event("file", f"run/phases/*/checkpoint-{SAVE_STEPS}/{name}") for name in of_checkpoint),
        *(Event("function", name, nth) for name, nth in (("training_step", 2), ("evaluate", 1))),
        *([Event("function", "generate")] if any((disk / "run" / "samples").glob(f"{phase}-step-*")) else []),
        Event("function", "seal"),
        *between,
        *(Event("file", f"run/phases/{last.name}/{late.name}/{name}") for name in of_checkpoint[:2]),
        Event("function", "rotate_checkpoints"),
        # The one before is in the way of the one behind.
        *([Event("gone", f"run/phases/*/checkpoint-{step - SAVE_STEPS}/[!.]*")] if step > SAVE_STEPS else []),
        Event("function", "_save_final"),
        *_at_end_of(last),
    ]


def _written(paths: Iterator[Path]) -> list[Path]:
    """Files in the order in which they were written."""
    return sorted((path for path in paths if path.is_file()), key=lambda path: path.stat().st_mtime_ns)


def _at_end_of(phase: Path) -> list[Event]:
    weights = [path.name for path in _written((phase / "final").iterdir())]
    name = phase.name.partition("-")[2]
    return [
        # Also when the last of them is seen only after the folder got its name.
        *(Event("file", f"run/phases/{phase.name}/*final*/{file}") for file in weights),
        Event("file", f"run/phases/{phase.name}/final"),
        Event("file", f"run/samples/{name}-after.json"),
    ]


def flips(whole: Path) -> list[Event]:
    """One for each file of the checkpoint before the last, its manifest among them: the run is killed as soon as that
    is whole, again and again."""
    late = checkpoints(_phase_folders(whole / "disk")[-1])[-1]
    sealed = Event("file", str((late / CHECKPOINT_MANIFEST).relative_to(whole / "disk")))
    return [replace(sealed, flip=path.name) for path in _written(late.iterdir()) if path.stat().st_size]


def fills(whole: Path) -> list[Event]:
    """The disk is full: as data is cached, measured and trained on, as the parts of a checkpoint and final weights are
    written, and behind them. In a function the run waits while it is filled, so that what comes next has no room."""
    *_, final, after = _at_end_of(_phase_folders(whole / "disk")[-1])
    in_checkpoint = ("_save_checkpoint", "save_weights", "save_to_json", "seal")
    events = [
        Event("function", "prepare"),
        Event("file", "cache/**/*"),
        Event("file", "run/samples/*-before.json"),
        *(Event("function", name) for name in ("evaluate", "training_step", *in_checkpoint, "_save_final")),
        final,
        after,
    ]
    return [replace(event, what="fill") for event in events]


# -------------------------------------------------------------------------------------------------- one configuration


class Configuration:
    """A configuration, run once from its start to its end, and then stopped in several ways."""

    def __init__(self, name: str, out: Path, seed: int):
        self.name, self.out = name, out / name
        self._overrides, self._draw = CONFIGS[name], random.Random(f"{name} {seed}")
        self._trials = itertools.count()
        self.stops, self.good = 0, True
        shutil.rmtree(self.out, ignore_errors=True)
        self.whole = self.out / "whole"
        begun = time.monotonic()
        code, said = start(self.whole, self._overrides, None)
        if code:
            raise SystemExit(said[-3000:])
        self._say("left alone", f"{steps_taken(self.whole)} steps in {time.monotonic() - begun:.0f} s")

    def kill(self, randoms: int, apart: bool) -> None:
        self._by_event("kill by event", kills(self.whole), apart)
        self._at_random("kill at random", ("SIGKILL",), randoms)

    def term(self, randoms: int, apart: bool) -> None:
        self._at_random("term at random", ("SIGTERM", "SIGUSR1"), randoms)

    def flip(self, randoms: int, apart: bool) -> None:
        self._by_event("flip", flips(self.whole), apart)

    def disk(self, randoms: int, apart: bool) -> None:
        try:
            self._by_event("disk", fills(self.whole), apart, room=size(self.whole / "disk") + _SPARE)
        except PermissionError as error:
            self._say("disk", f"left out: {error}")

    def phases(self, randoms: int, apart: bool) -> None:
        *before, _ = _phase_folders(self.whole / "disk")
        folder = self._folder()
        for phase in before:
            code, said = start(folder, (*self._overrides, f"run.phases=[{phase.name.partition('-')[2]}]"), None)
            if code or ended(folder)["status"] != "stopped":
                raise SystemExit(said[-3000:])
        if before:
            self._trial("phases one by one", folder, [])

    def _by_event(self, title: str, events: list[Event], apart: bool, room: int | None = None) -> None:
        """An event that does not come lets the run end: those behind it go to another one."""
        while events:
            folder = self._folder()
            with small_disk(folder / "disk", room) if room else nullcontext():
                came = self._trial(title, folder, events[:1] if apart else events)
            events = events[1 if apart else came + 1 :]

    def _at_random(self, title: str, whats: Sequence[str], wanted: int) -> None:
        """A moment that comes after the end of a run stops nothing: another one is drawn."""
        took, turns = float((self.whole / "seconds").read_text()), itertools.cycle(whats)
        while wanted > 0 and self.good:
            moments = [f"{self._draw.uniform(0, took):.2f}" for _ in range(wanted)]
            came = self._trial(title, self._folder(), [Event("seconds", at, what=next(turns)) for at in moments])
            wanted -= came
            if not came:
                took = min(took, float(moments[0]))  # the machine has become quicker since

    def _folder(self) -> Path:
        return self.out / f"{next(self._trials):03d}"

    def _trial(self, title: str, folder: Path, events: Sequence[Event]) -> int:
        """Stop a run by the events, compare it and print how that went: how many of the events came."""
        came: list[Event] = []
        try:
            for event in stopped(folder, self._overrides, events, self._draw):
                came.append(event)
            compare(self.whole, folder, came)
            result = "equal"
        except Different as error:
            self.good, result = False, f"NOT EQUAL: {error}\n(see {folder})"
        self.stops += len(came)
        at_end = f" (it ended without {events[len(came)]})" if len(came) < len(events) else ""
        self._say(title, f"{len(came)} stops, {steps_taken(folder)} steps{at_end}: {result}")
        if result == "equal":
            shutil.rmtree(folder, ignore_errors=True)  # of a small disk its place stays, until it is unmounted
        return len(came)

    def _say(self, title: str, line: str) -> None:
        print(f"{self.name:10} {title}: {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--how", nargs="+", choices=HOWS, default=list(HOWS))
    parser.add_argument("--random", type=int, default=20, help="stops at random moments, of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and bits")
    parser.add_argument("--out", type=Path, default=Path("outputs/kill"))
    parser.add_argument("--apart", action="store_true", help="a run for each event, to find the one that does harm")
    given = parser.parse_args()
    good = True
    for name in given.configs:
        one = Configuration(name, given.out.resolve(), given.seed)
        for how in given.how:
            getattr(one, how)(given.random, given.apart)
        print(f"{name:10} {one.stops} stops in all; {'every run equal' if one.good else 'NOT EQUAL'}", flush=True)
        good = good and one.good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
