"""The leaderboard of a sweep, or of some runs: what became of each, and which is best.

Values alone; :mod:`ftlab.rundir.leaderboard_table` draws them. Only the last lines of ``metrics.jsonl`` are read, so
that the leaderboard of a sweep that is at work may be taken every second.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftlab.errors import RunDirError
from ftlab.rundir import summary
from ftlab.rundir.compare import lower_is_better
from ftlab.rundir.directory import RunDir
from ftlab.rundir.lock import is_held
from ftlab.rundir.names import BOUNDS, OF_GOLDEN
from ftlab.rundir.summary import GOLDEN_COUNTS, VALIDATION, Summary
from ftlab.rundir.sweep import JobRecord, SweepDir

WAITING = "waiting"  # a job that has not begun
_EVALUATED = "eval_"  # begins the key of a measure on the validation split in metrics.jsonl
TRAIN_LOSS = "train loss"
_WITHOUT_RANK = (WAITING, "failed", "unreadable")
# Of a line of metrics.jsonl, what is logged and no measure.
_NO_MEASURES = ("step", "global_step", "epoch", "tokens", "total_tokens", "time", "seconds", "learning_rate")


@dataclass(frozen=True)
class Objective:
    """What runs are ranked by. :param measure: ``validation loss``, or a key of ``metrics.jsonl``."""

    measure: str
    minimize: bool


@dataclass(frozen=True)
class Entry:
    """One job of a sweep, or one run.

    :param rank: from 1; None where there is nothing to rank it by. :param number: from 0.
    :param overrides: those that tell it from the others. :param state: what :class:`Summary` calls the status, or
        ``waiting``. :param step: optimizer steps taken, of ``total_steps``; None where epochs decide and nothing is
        logged yet. :param loss: the last of training. :param measures: on the validation split and of golden prompts,
        as in a manifest; of a phase that is at work the last that were logged. :param logged: the last value of each
        number in ``metrics.jsonl``. :param value: of the objective. :param tokens_per_second: the last that was logged.
    :param seconds: of work. :param eta: seconds that a running one still takes. :param error: why it failed, or cannot
        be read. :param path: the run directory; None where the job has not begun.
    """

    number: int
    overrides: tuple[str, ...]
    state: str
    path: Path | None
    rank: int | None = None
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    logged: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None
    tokens: float = 0
    tokens_per_second: float | None = None
    seconds: float | None = None
    eta: float | None = None
    error: str | None = None

    @property
    def changes(self) -> dict[str, str]:
        """The same overrides as keys and values."""
        pairs = (line.partition("=") for line in self.overrides)
        return {key.lstrip("+"): value for key, _, value in pairs}

    @property
    def first_error(self) -> str | None:
        """The first line of the error, with the second where the first only announces it."""
        lines = [line.strip() for line in (self.error or "").splitlines() if line.strip()]
        return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else None


@dataclass(frozen=True)
class Leaderboard:
    """:param folder: of the sweep, or None. :param entries: the best first, then those without a rank by number."""

    folder: Path | None
    objective: Objective | None
    entries: tuple[Entry, ...]

    @property
    def best(self) -> Entry | None:
        """The best of those that are finished, where there are several to be better than."""
        ranked = [entry for entry in self.entries if entry.rank is not None and entry.state == "finished"]
        return ranked[0] if ranked and len(self.entries) > 1 else None

    @property
    def states(self) -> dict[str, int]:
        """How many are in each state."""
        return dict(Counter(entry.state for entry in sorted(self.entries, key=lambda entry: entry.number)))

    @property
    def measures(self) -> list[str]:
        """Every measure that an entry has: those of manifests, then other keys that were logged."""
        of_manifest = [name for entry in self.entries for name in entry.measures if name not in GOLDEN_COUNTS]
        logged = [
            name for entry in self.entries for name in entry.logged
            if name not in _NO_MEASURES and not name.startswith((OF_GOLDEN, _EVALUATED))
        ]  # fmt: skip
        return list(dict.fromkeys([*of_manifest, *logged]))

    @property
    def eta(self) -> float | None:
        """Seconds until all are done, at the pace so far and with as many at once as now; None where that says
        nothing."""
        running = [entry for entry in self.entries if entry.state == "running"]
        left = [entry.eta for entry in running if entry.eta is not None]
        waiting = sum(entry.state == WAITING for entry in self.entries)
        taken = [entry.seconds for entry in self.entries if entry.state == "finished" and entry.seconds is not None]
        whole = sum(taken) / len(taken) if taken else None
        if len(left) < len(running) or not running or (waiting and whole is None):
            return None
        return (sum(left) + waiting * (whole or 0.0)) / len(running)


def read_sweep(
    sweep: SweepDir, objective: str | None = None, minimize: bool | None = None, now: float | None = None
) -> Leaderboard:
    """The leaderboard of a sweep as it is now, whether it is at work or not.

    :param objective: a measure, as it is typed: ``eval_loss``, ``golden_exact_match``, ``train_loss``, or any key of
        ``metrics.jsonl``. None: the first that the sweep is judged by (``sweep.objective``), or the stage's own.
    :param minimize: whether less of it is better; None: as is known of it. :param now: seconds since the epoch.
    :raises RunDirError: the journal or the record of a job is damaged.
    """
    records, journal = sweep.records(), sweep.journal()
    if objective is None and journal.objectives:
        objective, minimize = journal.objectives[0].measure, journal.objectives[0].direction == "minimize"
    now = time.time() if now is None else now
    entries = [_job(sweep, job, tuple(journal.changed(job.overrides)), now) for job in records.values()]
    entries += [
        Entry(number, tuple(journal.changed(job)), WAITING, None)
        for number, job in enumerate(journal.jobs or ())
        if number not in records
    ]
    return rank(sweep.path, entries, objective, minimize)


def read_runs(paths: Sequence[Path], overrides: Sequence[tuple[str, ...]], objective: str | None = None) -> Leaderboard:
    """The same of some runs. :param overrides: of each those that tell it from the others."""
    now = time.time()
    entries = [_run(number, told, path, None, now) for number, (path, told) in enumerate(zip(paths, overrides))]
    return rank(None, entries, objective, None)


def rank(folder: Path | None, entries: Iterable[Entry], objective: str | None, minimize: bool | None) -> Leaderboard:
    """Order entries by an objective, the best first; equal ones by number. Those without a value come last.

    :param objective, minimize: as of :func:`read_sweep`.
    """
    entries = sorted(entries, key=lambda entry: entry.number)
    chosen = _objective(entries, objective, minimize)
    if chosen is None:
        return Leaderboard(folder, None, tuple(entries))
    entries = [replace(entry, value=_value(entry, chosen.measure)) for entry in entries]
    sign = 1 if chosen.minimize else -1
    ranked = [
        entry for entry in entries
        if entry.value is not None and not math.isnan(entry.value) and entry.state not in _WITHOUT_RANK
    ]  # fmt: skip
    ranked.sort(key=lambda entry: sign * (entry.value or 0.0))
    rest = [entry for entry in entries if entry not in ranked]
    placed = [replace(entry, rank=place) for place, entry in enumerate(ranked, 1)]
    return Leaderboard(folder, chosen, (*placed, *rest))


def _objective(entries: Sequence[Entry], word: str | None, minimize: bool | None) -> Objective | None:
    first = sorted(entries, key=lambda entry: entry.state != "finished")
    measure = next((name for entry in first if (name := summary.main_measure(entry.measures)) is not None), None)
    if word is not None:
        measure = (
            summary.find_measure(word, [TRAIN_LOSS, *(name for entry in entries for name in entry.measures)]) or word
        )
    if measure is None:
        return None
    lower = lower_is_better(measure)
    return Objective(measure, lower if minimize is None else minimize)


def _value(entry: Entry, measure: str) -> float | None:
    if measure == TRAIN_LOSS:
        return entry.loss
    return entry.measures.get(measure, entry.logged.get(measure))


def _job(sweep: SweepDir, job: JobRecord, overrides: tuple[str, ...], now: float) -> Entry:
    path = sweep.run_dir(job)
    if RunDir(path).run_yaml.is_file():
        entry = _run(job.number, overrides, path, job.error, now)
        is_stopped = job.stopped is not None and entry.state == "killed"  # before its run could write it down
        return replace(entry, state="stopped") if is_stopped else entry
    state = "failed" if job.error is not None else "running" if is_held(path) else WAITING
    return Entry(job.number, overrides, state, path, error=job.error)


def _run(number: int, overrides: tuple[str, ...], path: Path, error: str | None, now: float) -> Entry:
    """:param error: what the sweep has written down of the job."""
    run = summary.summarize(path)
    state = "failed" if error is not None and run.status != "finished" else run.status
    lines = [] if state == "unreadable" else _latest_lines(path)
    logged = _newest(lines)
    return Entry(
        number, overrides, state, path, step=run.steps, total_steps=_total_steps(run, lines), loss=logged.get("loss"),
        measures=_measures(run, lines), logged=logged,
        tokens=max(run.tokens, logged.get("total_tokens", 0)),
        tokens_per_second=logged.get("tokens_per_second"), seconds=run.seconds,
        eta=_eta(run, lines, now) if state == "running" else None,
        error=None if state == "finished" else error or run.problem,
    )  # fmt: skip


def _latest_lines(path: Path) -> list[dict[str, Any]]:
    """Of the phase at which a run stands, the newest first; none where they cannot be read, which its summary tells."""
    lines: list[dict[str, Any]] = []
    try:
        for line in RunDir(path).read_latest_metrics():
            if lines and line["phase"] != lines[0]["phase"]:
                break
            lines.append(line)
    except RunDirError:
        return []
    return lines


def _newest(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The newest value of each number."""
    found: dict[str, float] = {}
    for line in lines:
        for key, value in line.items():
            if is_number(value):
                found.setdefault(key, value)
    return found


def is_number(value: Any) -> bool:
    """Whether it is one that fits a float, be it none that can be computed with."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < sys.float_info.max
    return isinstance(value, float)


def _measures(run: Summary, lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a phase that is done what its manifest has; of one that is at work what it has logged."""
    if not lines or lines[0]["phase"] in run.done:
        return dict(run.after)
    return {name: value for key, value in _newest(lines).items() if (name := measure_of_key(key)) is not None}


def measure_of_key(key: str) -> str | None:
    """``eval_loss`` of ``metrics.jsonl`` as a manifest has it, ``validation loss``; None where it is no measure."""
    if key.startswith(OF_GOLDEN):
        return None if key.endswith(BOUNDS) else key.replace("_", " ")
    return VALIDATION + key.removeprefix(_EVALUATED) if key.startswith(_EVALUATED) else None


def _total_steps(run: Summary, lines: Sequence[Mapping[str, Any]]) -> int | None:
    """Of all phases; None where one has not come so far that its epochs could be counted in steps."""
    steps = [
        length if length is not None or phase in run.done else _steps_of_epochs(epochs, phase, lines)
        for length, epochs, phase in zip(run.lengths, run.epochs, run.phases)
    ]
    known = [count for count in steps if count is not None]
    return sum(known) if known and len(known) == len(steps) else None


def _steps_of_epochs(epochs: float | None, phase: str, lines: Sequence[Mapping[str, Any]]) -> int | None:
    """From how much of an epoch a step was."""
    for line in lines:
        epoch: Any = line.get("epoch")
        if line["phase"] != phase or not is_number(epoch) or not epoch > 0 or not line["step"] or not epochs:
            continue
        of_epoch = line["step"] / epoch - 1e-6
        return math.ceil(epochs * math.ceil(of_epoch)) if math.isfinite(of_epoch * epochs) else None
    return None


def _eta(run: Summary, lines: Sequence[Mapping[str, Any]], now: float) -> float | None:
    """By the pace of the last lines, evaluations included."""
    total = _total_steps(run, lines)
    timed = [line for line in lines if line.get("seconds") is not None]
    if total is None or not timed or timed[0]["step"] == timed[-1]["step"]:
        return None
    pace = (timed[0]["seconds"] - timed[-1]["seconds"]) / (timed[0]["step"] - timed[-1]["step"])
    return float(max(0.0, (total - run.steps) * pace - max(0.0, now - timed[0]["time"])))


# --- json ------------------------------------------------------------------------------------------------------------


def as_dict(board: Leaderboard, shown: Iterable[Entry] | None = None) -> dict[str, Any]:
    """For programs. :param shown: the entries that are wanted; None: all."""
    best = board.best
    return {
        "sweep": None if board.folder is None else str(board.folder),
        "objective": None if board.objective is None else vars(board.objective),
        "best": None if best is None else best.number,
        "states": board.states,
        "eta": board.eta,
        "jobs": [_entry_as_dict(entry) for entry in (board.entries if shown is None else shown)],
    }


def _entry_as_dict(entry: Entry) -> dict[str, Any]:
    values = {**vars(entry), "path": None if entry.path is None else str(entry.path), "changes": entry.changes}
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    """Numbers that JSON has no way to write become words."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
