"""What the small JSON files of a run hold, as types. Each has one reader, and what was damaged is told in words.

Readers return plain values as they were written, other keys included: a run of another version has some that this one
does not know. Types are strict, because nothing is converted that whoever reads it would then find as it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ftlab.errors import RunDirError
from ftlab.rundir.documents import WITHOUT_LINE, is_there, json_lines, last_json_line, last_json_lines, read_json

_WITHOUT_MANIFEST = "Put a copy back, or remove it: a run goes on from the checkpoints that its phases have."
_WITHOUT_LEDGER = "Put a copy back, or remove it: then a resume cannot tell whether the data has changed since."
_WITHOUT_SAMPLES = "Put a copy back, or remove it: what it holds is then measured again."
_WITHOUT_TRACKERS = "Put a copy back, or remove it: trackers then begin another run."
_WITHOUT_STATE = "Put a copy back, or remove the checkpoint: the run goes on from the one before."
_SHOWN = 60  # characters of a line


def _time(text: str) -> str:
    """:raises ValueError: it is no time, or none that a clock has."""
    datetime.fromisoformat(text).timestamp()
    return text


Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Number = Annotated[int | float, Field(ge=0, lt=1 << 62)]
Seconds = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]  # also since the epoch: up to the year 5138
Time = Annotated[str, AfterValidator(_time)]
Measures = dict[str, float]


class Record(BaseModel):
    model_config = ConfigDict(strict=True)


class Result(Record):
    """Of a phase that is done. :param sha256: of its final weights, by file name."""

    steps: Count
    tokens: Number
    before: Measures
    after: Measures
    sha256: dict[str, str]


class Start(Record):
    time: Time


class Obeyed(Record):
    """What a user asked for while a run was at work (:mod:`ftlab.rundir.control`). :param line: of the journal, from 0;
    -1 of what a clone has from its parent. :param step: of the phase, after which it was obeyed.
    :param values: of ``set``, what keys are since then. :param before: what they had been."""

    line: int
    verb: str
    phase: str
    step: Count
    values: dict[str, float] = {}
    before: dict[str, float] = {}


class Clone(Record):
    """Of a run that began with the weights of another. :param run: its directory, as seen from this one's.
    :param step: of its phase. :param learning_rate: that its schedule was made for; None where the clone has its own.
    """

    run: str
    phase: str
    step: Count
    learning_rate: float | None = None


class ManifestRecord(Record):
    """``manifest.json``. Of a run that has only just begun, nothing is there yet."""

    status: str = "new"
    error: str | None = None
    seconds: Seconds | None = None
    began: Time | None = None
    phases: dict[str, Result] = {}
    starts: list[Start] = []
    data: dict[str, dict[str, Any]] = {}
    batch_sizes: dict[str, list[dict[str, Count]]] = {}
    rerun: str | None = None
    folder: str | None = None
    ftlab: str | None = None
    packages: dict[str, Any] | None = None
    machine: dict[str, Any] | None = None
    git: dict[str, Any] | None = None
    control: list[Obeyed] = []
    clone: Clone | None = None


class LineRecord(Record):
    """A line of ``metrics.jsonl``. Not every line counts tokens."""

    phase: str
    step: Count
    time: Seconds
    global_step: Number = 0
    tokens: Number = 0
    seconds: Seconds | None = None


class LedgerRecord(Record):
    """``data/PHASE.json``. :param sha256: of every file that was read."""

    source: Any
    sha256: dict[str, str]
    tokenized_by: Any
    splits: dict[str, dict[str, Any]]


class Answer(Record):
    prompt: str
    expected: str | None
    answer: str


class SamplesRecord(Record):
    """``samples/PHASE-WHEN.json``: what was measured, and some answers."""

    model_config = ConfigDict(strict=True, extra="forbid")
    values: Measures
    samples: list[Answer]
    intervals: dict[str, list[float]] = {}


class TrackersRecord(Record):
    key: str
    mlflow: str


class Logged(Record):
    step: Count


class TrainerStateRecord(Record):
    """Of a checkpoint, the part of transformers' state that a run reads itself."""

    global_step: Count
    max_steps: Count
    log_history: list[Logged]


def read_manifest(path: Path) -> dict[str, Any]:
    """Empty where there is none yet. :raises RunDirError: it is damaged."""
    return _read(ManifestRecord, path, _WITHOUT_MANIFEST) if is_there(path) else {}


def read_ledger(path: Path) -> dict[str, Any] | None:
    """None where the phase has not come to its data. :raises RunDirError: it is damaged."""
    return _read(LedgerRecord, path, _WITHOUT_LEDGER) if is_there(path) else None


def read_samples(path: Path) -> dict[str, Any] | None:
    """None where nothing was measured. :raises RunDirError: it is damaged."""
    return _read(SamplesRecord, path, _WITHOUT_SAMPLES) if is_there(path) else None


def read_trackers(path: Path) -> dict[str, Any]:
    """:raises RunDirError: it is damaged."""
    return _read(TrackersRecord, path, _WITHOUT_TRACKERS)


def read_trainer_state(path: Path) -> dict[str, Any]:
    """:raises RunDirError: it is damaged."""
    return _read(TrainerStateRecord, path, _WITHOUT_STATE)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; a last line that a crash cut short is skipped.

    :raises RunDirError: it cannot be read, or a line is not what a run writes.
    """
    for number, line in json_lines(path) if is_there(path) else ():
        _check_line(line, f"{path}:{number}")
        yield line


def read_last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of ``metrics.jsonl``, without reading what is before. :raises RunDirError: it is damaged."""
    line = last_json_line(path) if is_there(path) else None
    if line is not None:
        _check_line(line, f"{path}: its last line")
    return line


def read_last_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The last lines of ``metrics.jsonl``, the newest first, without reading what is long before. What no run writes is
    passed over. :raises RunDirError: it cannot be read."""
    yield from (line for line in (last_json_lines(path) if is_there(path) else ()) if _is_placed(line))


def _is_placed(line: dict[str, Any]) -> bool:
    """Whether what places a line is of its types: all of :class:`LineRecord` would take ten times as long."""
    numbers = (line.get("time"), line.get("global_step", 0), line.get("seconds") or 0.0)
    is_named = isinstance(line.get("phase"), str) and type(line.get("step")) is int
    return is_named and all(type(number) in (int, float) for number in numbers)


def is_line(values: Any) -> bool:
    """Whether a run has written this into its ``metrics.jsonl``."""
    return _mistake(LineRecord, values) is None


def _check_line(line: dict[str, Any], where: str) -> None:
    mistake = _mistake(LineRecord, line)
    if mistake is not None:
        shown = json.dumps(line)[:_SHOWN]
        raise RunDirError(f"{where} is no line that a run writes: {mistake}: {shown}. {WITHOUT_LINE}")


def check(kind: type[BaseModel], values: Any, path: Path, remedy: str = "Put a copy back.") -> None:
    """:raises RunDirError: a file does not hold what a run writes into it."""
    mistake = _mistake(kind, values)
    if mistake is not None:
        raise RunDirError(f"{path} is not what a run writes: {mistake}. {remedy}")


def _read(kind: type[BaseModel], path: Path, remedy: str) -> dict[str, Any]:
    values = read_json(path, remedy)
    check(kind, values, path, remedy)
    return values


def _mistake(kind: type[BaseModel], values: Any) -> str | None:
    """The first thing that is wrong, and how many more are."""
    try:
        kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}{more}"
    return None
