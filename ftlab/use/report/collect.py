"""What a report tells, as plain values, out of run directories. Prints nothing, draws nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.base.redaction import redact
from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.rundir import leaderboard, summary
from ftlab.rundir.compare import flatten
from ftlab.rundir.directory import RunDir
from ftlab.rundir.evaluations import evaluations
from ftlab.rundir.leaderboard import Entry, Leaderboard, is_number, measure_of_key
from ftlab.rundir.records import read_samples
from ftlab.rundir.sweep import SweepDir, changed_overrides, is_sweep

_PLACES = ("run.", "hydra.", "task=", "tracker=", "tracker.", "-")  # begin what says where a run is, and not what
# Of a line of metrics.jsonl, what counts or places it.
_COUNTS = ("phase", "step", "global_step", "epoch", "tokens", "total_tokens", "time", "seconds")
_NO_LEARNING = ("runtime", "samples_per_second", "steps_per_second")
_MEMORY = "gpu_memory_gb"


@dataclass
class Curve:
    """A measure over a run: where it was logged, and its values. ``None`` is one that is no number."""

    steps: list[int]
    tokens: list[float]
    seconds: list[float]
    values: list[float | None]

    def append(self, line: Mapping[str, Any], tokens: float, value: float) -> None:
        self.steps.append(int(line.get("global_step", line["step"])))
        self.tokens.append(tokens)
        self.seconds.append(float(line.get("seconds") or 0.0))
        self.values.append(float(value) if math.isfinite(value) else None)


@dataclass(frozen=True)
class Answered:
    """A prompt of a phase. :param base: the answer before training. :param answers: after it, by number of the run."""

    phase: str
    prompt: str
    expected: str | None
    base: dict[int, str]
    answers: dict[int, str]


@dataclass(frozen=True)
class RunPage:
    """One run.

    :param label: short, and its own. :param settings: of each key in which the runs differ its value.
    :param train: curves of what is logged in training, by key. :param measured: by measure, as in a manifest.
    :param rerun: the command that runs it again, from ``folder``. :param memory: the most of a GPU that was logged, GB.
    """

    entry: Entry
    label: str
    settings: dict[str, str]
    train: dict[str, Curve]
    measured: dict[str, Curve]
    rerun: str | None
    folder: str | None
    memory: float | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run (``ftlab evaluate``), or how it differs from another model's.

    :param name: of its folder. :param other: what it is compared with; None: these are its own values.
    :param metrics: name -> what ``evaluation.json`` has: value, low, high; of a difference also verdict.
    """

    run: RunPage
    name: str
    other: str | None
    metrics: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """:param keys: in which the runs differ. :param problems: what could not be read, in words."""

    title: str
    board: Leaderboard
    runs: tuple[RunPage, ...]
    keys: tuple[str, ...]
    answered: tuple[Answered, ...]
    evaluated: tuple[Evaluated, ...]
    problems: tuple[str, ...]

    @property
    def best(self) -> RunPage | None:
        best = self.board.best or next((entry for entry in self.board.entries if len(self.runs) == 1), None)
        return None if best is None else next(run for run in self.runs if run.entry.number == best.number)


def collect(words: Sequence[str], objective: str | None) -> Report:
    """Read a sweep, or some runs.

    :param words: one folder of a sweep, or run directories; a sweep among several stands for its runs.
    :raises ConfigError: one of them is neither, or the objective is nothing that was measured.
    :raises RunDirError: a run that was named cannot be read, or the journal of a sweep is damaged.
    """
    folders = [Path(word).expanduser() for word in words]
    if not folders:
        raise ConfigError([Mistake("task.runs", "names nothing: ftlab report SWEEP, or ftlab report RUN RUN ...")])
    wrong = [folder for folder in folders if not folder.is_dir()]
    if wrong:
        reason = "is no folder of a sweep or a run. Both are in outputs/; ftlab ls lists them."
        raise ConfigError([Mistake("task.runs", reason, folder) for folder in wrong])
    if len(folders) == 1 and is_sweep(folders[0]):
        board = leaderboard.read_sweep(SweepDir(folders[0]), objective)
        title = f"sweep {folders[0].resolve().name}"
        labels = {entry.number: f"job {entry.number + 1}" for entry in board.entries}
    else:
        paths = list(_runs(folders))
        board = leaderboard.read_runs(paths, _told_apart(paths), objective)
        labels = _names(paths)
        title = f"{len(paths)} runs" if len(paths) > 1 else labels[0]
    _check_objective(board, objective)
    problems: list[str] = []
    keys, settings = _settings(board.entries)
    runs = tuple(_run(entry, labels[entry.number], settings[entry.number], problems) for entry in board.entries)
    evaluated = tuple(_evaluated(runs, problems))
    answered = _answered(board.entries, problems)
    return Report(redact(title), board, runs, keys, answered, evaluated, tuple(problems))


def _runs(folders: Iterable[Path]) -> Iterator[Path]:
    """:raises RunDirError: one is no run, or cannot be read."""
    for folder in folders:
        if is_sweep(folder):
            sweep = SweepDir(folder)
            paths = [sweep.run_dir(job) for job in sweep.records().values()]
            yield from (path for path in paths if RunDir(path).run_yaml.is_file())
        else:
            run_dir = RunDir.open(folder)
            summary.check_readable(run_dir)
            yield run_dir.path


def _check_objective(board: Leaderboard, objective: str | None) -> None:
    if objective is not None and board.measures and all(entry.value is None for entry in board.entries):
        words = ", ".join([*map(summary.measure_word, board.measures), "train_loss"])
        raise ConfigError([Mistake("task.objective", f"is nothing that was measured. There are: {words}.", objective)])


def _names(paths: Sequence[Path]) -> dict[int, str]:
    """The last part of each path, or all of it where that is another's too."""
    names = [path.resolve().name for path in paths]
    return {at: name if names.count(name) == 1 else str(paths[at]) for at, name in enumerate(names)}


# --- what differs ----------------------------------------------------------------------------------------------------


def _told_apart(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Of each run the overrides that not all of them have."""
    lines = [
        tuple(line for line in summary.read_plan(RunDir(path)).get("overrides", ()) if not line.startswith(_PLACES))
        for path in paths
    ]
    return [tuple(changed_overrides(line, tuple(lines))) for line in lines]


def _settings(entries: Sequence[Entry]) -> tuple[tuple[str, ...], dict[int, dict[str, str]]]:
    """The keys in which the runs differ, and the values of each. Who was told nothing has what its config says."""
    keys = dict.fromkeys(key for entry in sorted(entries, key=lambda one: one.number) for key in entry.changes)
    found: dict[int, dict[str, str]] = {}
    for entry in entries:
        missing = [key for key in keys if key not in entry.changes]
        config = _config(entry) if missing else {}
        told = {**{key: str(config[key]) for key in missing if key in config}, **entry.changes}
        found[entry.number] = {key: redact(told[key]) for key in keys if key in told}
    differing = [key for key in keys if len({values.get(key) for values in found.values()}) > 1]
    return tuple(differing), {
        number: {key: values[key] for key in differing if key in values} for number, values in found.items()
    }


def _config(entry: Entry) -> dict[str, Any]:
    """The keys of a run's first phase; of a group its name."""
    if entry.path is None or entry.state == "unreadable":
        return {}
    try:
        config = summary.read_plan(RunDir(entry.path))["phases"][0]["config"]
    except (RunDirError, LookupError, TypeError):
        return {}
    names = {group: values["name"] for group, values in config.items() if isinstance(values, dict) and "name" in values}
    return {**dict(flatten(config)), **names}


# --- one run ---------------------------------------------------------------------------------------------------------


def _run(entry: Entry, label: str, settings: dict[str, str], problems: list[str]) -> RunPage:
    train: dict[str, Curve] = {}
    measured: dict[str, Curve] = {}
    rerun = folder = None
    if entry.first_error is not None:
        problems.append(redact(f"{label} {entry.state}: {entry.first_error}"))
    if entry.path is not None and entry.state != "unreadable":
        run_dir = RunDir(entry.path)
        _read_curves(run_dir, train, measured, problems)
        try:
            manifest = run_dir.manifest()
        except RunDirError as error:
            manifest = {}
            problems.append(redact(str(error)))
        rerun, folder = manifest.get("rerun"), manifest.get("folder")
    peaks = [value for value in (train[_MEMORY].values if _MEMORY in train else []) if value is not None]
    return RunPage(
        entry, redact(label), settings, train, measured, None if rerun is None else redact(rerun),
        None if folder is None else redact(folder), max(peaks, default=None),
    )  # fmt: skip


def _read_curves(run_dir: RunDir, train: dict[str, Curve], measured: dict[str, Curve], problems: list[str]) -> None:
    """Every line up to one that is damaged, which is told."""
    tokens = 0.0
    try:
        for line in run_dir.read_metrics():
            tokens = line["total_tokens"] if is_number(line.get("total_tokens")) else tokens
            for key, value in line.items():
                if key in _COUNTS or not is_number(value):
                    continue
                measure = measure_of_key(key)
                if measure is not None and not measure.endswith(_NO_LEARNING):
                    measured.setdefault(measure, Curve([], [], [], [])).append(line, tokens, value)
                elif measure is None:
                    train.setdefault(key, Curve([], [], [], [])).append(line, tokens, value)
    except RunDirError as error:
        problems.append(redact(f"{error} What was logged before it is shown."))


# --- evaluations -----------------------------------------------------------------------------------------------------


def _evaluated(runs: Iterable[RunPage], problems: list[str]) -> Iterator[Evaluated]:
    for run in runs:
        for folder in evaluations(run.entry.path) if run.entry.path is not None else ():
            try:
                values = folder.read() or {}
            except RunDirError as error:
                problems.append(redact(str(error)))
                continue
            if values.get("status") != "finished" or not isinstance(values.get("metrics"), dict):
                problems.append(redact(f"{folder.path} is not finished: give its command again"))
                continue
            yield Evaluated(run, redact(folder.path.name), None, values["metrics"])
            for other, differences in values.get("compare", {}).items():
                yield Evaluated(run, redact(folder.path.name), redact(other), differences)


# --- answers ---------------------------------------------------------------------------------------------------------


def _answered(entries: Collection[Entry], problems: list[str]) -> tuple[Answered, ...]:
    """The prompts of all runs, each once, with every answer to it."""
    found: dict[tuple[str, str], Answered] = {}
    for entry in entries:
        for phase in _phases(entry):
            for when in ("before", "after"):
                for sample in _samples(entry, phase, when, problems):
                    prompt = redact(sample["prompt"])
                    expected = None if sample["expected"] is None else redact(sample["expected"])
                    one = found.setdefault((phase, prompt), Answered(phase, prompt, expected, {}, {}))
                    (one.base if when == "before" else one.answers)[entry.number] = redact(sample["answer"])
    return tuple(found.values())


def _phases(entry: Entry) -> tuple[str, ...]:
    if entry.path is None or entry.state == "unreadable":
        return ()
    return summary.summarize(entry.path).phases


def _samples(entry: Entry, phase: str, when: str, problems: list[str]) -> list[dict[str, Any]]:
    assert entry.path is not None
    try:
        values = read_samples(RunDir(entry.path).samples_file(phase, when))
    except RunDirError as error:
        problems.append(redact(str(error)))
        return []
    return [] if values is None else values["samples"]
