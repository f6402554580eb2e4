"""What differs between two runs, part by part. Reads plain values as they were written; prints nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.rundir.identity import identity_of_config
from ftlab.rundir.names import OF_GOLDEN, TIMES

MISSING = object()  # where one side has no such key

# Of a manifest, what is no part of the environment that a run had.
_NOT_ENVIRONMENT = (
    "status", "error", "phases", "seconds", "rerun", "began", "starts", "folder", "data", "reproduces", "extended",
    "control", "clone",
)  # fmt: skip
# Of a phase in run.yaml, what is compared elsewhere or says nothing.
_NOT_OF_A_PHASE = ("name", "folder", "config")
# Of a split in the ledger, what a person counts.
_COUNTED = ("rows", "dropped", "tokens", "packing")
# In a line of metrics.jsonl, what places it and what only the clock decides, and what adds up earlier phases.
PLACE = ("phase", "step", *TIMES)
OF_EARLIER_PHASES = ("global_step", "total_tokens")
_LOWER_IS_BETTER = ("loss", "perplexity", "nll", "kl")
_LONGEST = 300  # characters of a value that is shown
_HASH = 12  # characters of one


def lower_is_better(measure: str) -> bool:
    """:param measure: as in a manifest, ``validation loss``, or as it is logged: ``eval_loss``, ``rewards/margins``."""
    return measure.split()[-1].removeprefix("eval_").removeprefix(OF_GOLDEN) in _LOWER_IS_BETTER


def pareto_front(values: Mapping[int, Sequence[float]], lower: Sequence[bool]) -> list[int]:
    """The keys whose values no others are better than in one place and as good as in all.

    :param lower: of each place, whether less is better.
    """
    signed = {key: [one if less else -one for one, less in zip(row, lower)] for key, row in values.items()}

    def is_beaten(row: Sequence[float]) -> bool:
        return any(other != row and all(a <= b for a, b in zip(other, row)) for other in signed.values())

    return [key for key, row in signed.items() if not is_beaten(row)]


@dataclass(frozen=True)
class Difference:
    """:param phases: those in which the key has these values; empty where it belongs to no phase."""

    key: str
    a: Any
    b: Any
    phases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two phases that are compared. :param name: of both; ``a | b`` where they differ."""

    a: str
    b: str

    @property
    def name(self) -> str:
        return self.a if self.a == self.b else f"{self.a} | {self.b}"


def pairs(a: Sequence[str], b: Sequence[str]) -> tuple[list[Pair], list[str], list[str]]:
    """Phases of one name, and those that only the one run and only the other has. Single phases are a pair anyway."""
    if len(a) == len(b) == 1:
        return [Pair(a[0], b[0])], [], []
    both = [Pair(name, name) for name in a if name in b]
    return both, [name for name in a if name not in b], [name for name in b if name not in a]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten a mapping to dotted keys and values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(a: Mapping[str, Any], b: Mapping[str, Any], tolerance: float = 0.0) -> Iterator[Difference]:
    """Return the differences between flat mappings, in the order of ``a`` and then of what only ``b`` has."""
    for key in dict.fromkeys((*a, *b)):
        ours, theirs = a.get(key, MISSING), b.get(key, MISSING)
        if not is_equal(ours, theirs, tolerance):
            yield Difference(key, ours, theirs)


def is_equal(a: Any, b: Any, tolerance: float) -> bool:
    if _is_number(a) and _is_number(b):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance
    return bool(a == b)


def _presence(side: Any, what: str) -> str:
    return what if side is not None else f"not {what}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- config ----------------------------------------------------------------------------------------------------------


def config(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[bool, Difference]]:
    """Compare the configs of two phases: whether each key is part of a run's identity, and the difference."""
    identity = {key for phase in (a, b) for key, _ in identity_of_config(phase["config"])}
    for found in differences(_config_values(a), _config_values(b)):
        parts = found.key.split(".")
        prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
        yield parts[0] == "phase" or bool(prefixes & identity), found


def _config_values(phase: Mapping[str, Any]) -> dict[str, Any]:
    own = {f"phase.{key}": value for key, value in phase.items() if key not in _NOT_OF_A_PHASE}
    # The curriculum under ``phases`` holds what is compared as the phases themselves.
    return {**own, **dict(flatten({key: value for key, value in phase["config"].items() if key != "phases"}))}


def merge(differences: Iterable[tuple[str, Difference]]) -> list[Difference]:
    """Merge equal differences of several phases into one that names the phases."""
    told: dict[tuple[str, str, str], Difference] = {}
    for phase, one in differences:
        place = (one.key, repr(one.a), repr(one.b))
        before = told[place].phases if place in told else ()
        told[place] = Difference(one.key, one.a, one.b, (*before, phase))
    return list(told.values())


# --- data ------------------------------------------------------------------------------------------------------------


def data(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> Iterator[Difference]:
    """Compare two ledgers: fingerprints of files, counts, and what encoded the text. A moved file is equal."""
    if a is None or b is None:
        if a is not b:
            yield Difference("ledger", _presence(a, "written"), _presence(b, "written"))
        return
    yield from _files(a["sha256"], b["sha256"])
    yield from differences(_counts(a), _counts(b))


def _files(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[Difference]:
    hashes = {*a.values()} & {*b.values()}
    ours = {file: hash_ for file, hash_ in a.items() if hash_ not in hashes}
    theirs = {file: hash_ for file, hash_ in b.items() if hash_ not in hashes}
    for file, hash_ in ours.items():
        other = next((name for name in theirs if name == file), None)
        other = other or next((name for name in theirs if Path(name).name == Path(file).name), None)
        yield Difference(f"sha256 of {file}", hash_, MISSING if other is None else theirs.pop(other))
    for file, hash_ in theirs.items():
        yield Difference(f"sha256 of {file}", MISSING, hash_)


def _counts(ledger: Mapping[str, Any]) -> dict[str, Any]:
    splits = {
        name: {part: values for part, values in split.items() if part in _COUNTED}
        for name, split in ledger["splits"].items()
    }
    found = dict(flatten({"source": ledger["source"], "tokenized_by": ledger["tokenized_by"], **splits}))
    return {key: value for key, value in found.items() if value != {} and not key.endswith(".first")}


def control(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """Compare by two manifests what users changed while the runs were at work, and which run each is a clone of."""
    yield from differences(_asked(a), _asked(b))


def _asked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    changes = {
        f"{key} after step {one['step']} of {one['phase']}": value
        for one in manifest.get("control", [])
        for key, value in one.get("values", {}).items()
    }
    return changes | dict(flatten({"clone": manifest.get("clone") or {}}))


# --- environment and results -----------------------------------------------------------------------------------------


def environment(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    """Compare two manifests: versions, machine, code."""
    ours, theirs = ({key: value for key, value in side.items() if key not in _NOT_ENVIRONMENT} for side in (a, b))
    yield from differences(dict(flatten(ours)), dict(flatten(theirs)))


def results(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, tolerance: float) -> Iterator[Difference]:
    """Compare the results of two phases in the manifests; None is a phase that is not done."""
    if a is None or b is None:
        if a is not b:
            yield Difference("phase", _presence(a, "done"), _presence(b, "done"))
        return
    yield from differences(dict(flatten(a)), dict(flatten(b)), tolerance)


# --- metrics ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parting:
    """How one logged key parts: where first, with which values, and where furthest after that.

    :param largest: the largest difference; None where the values are no numbers, or no longer are.
    """

    key: str
    step: int
    a: Any
    b: Any
    largest: float | None
    largest_step: int | None


@dataclass(frozen=True)
class Metrics:
    """:param lines: that each run logged in the phase. :param ends: the last step of each. :param partings: by step.

    :param alone_a: keys that the first run alone logged at steps that both came to -> the first of them, and how often.
    """

    lines: tuple[int, int]
    ends: tuple[int | None, int | None]
    partings: list[Parting]
    alone_a: dict[str, tuple[int, int]]
    alone_b: dict[str, tuple[int, int]]

    @property
    def first_step(self) -> int | None:
        return self.partings[0].step if self.partings else None

    @property
    def equal(self) -> bool:
        return not (self.partings or self.alone_a or self.alone_b) and self.ends[0] == self.ends[1]


_Cells = dict[tuple[int, str, int], Any]  # (step, key, how many of them were before at this step) -> value


def metrics(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], tolerance: float, aside: Collection[str] = ()
) -> Metrics:
    """Compare the lines that two phases logged. Times are left aside. :param aside: other keys that are."""
    ours, theirs = _cells(a, aside), _cells(b, aside)
    parted: dict[str, list[tuple[int, Any, Any]]] = {}
    for place, value in ours.items():
        if place in theirs and not is_equal(value, theirs[place], tolerance):
            parted.setdefault(place[1], []).append((place[0], value, theirs[place]))
    partings = sorted((_parting(key, found) for key, found in parted.items()), key=lambda one: one.step)
    last_a, last_b = (max((step for step, _, _ in cells), default=None) for cells in (ours, theirs))
    both = -1 if last_a is None or last_b is None else min(last_a, last_b)
    return Metrics(
        (len(a), len(b)),
        (last_a, last_b),
        partings,
        _unmatched_keys(ours, theirs, both),
        _unmatched_keys(theirs, ours, both),
    )


def _cells(lines: Sequence[Mapping[str, Any]], aside: Collection[str]) -> _Cells:
    cells: _Cells = {}
    for line in lines:
        for key in [key for key in line if key not in PLACE and key not in aside]:
            nth = 0
            while (line["step"], key, nth) in cells:
                nth += 1
            cells[line["step"], key, nth] = line[key]
    return cells


def _unmatched_keys(ours: _Cells, theirs: _Cells, last: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for step, key, _ in (place for place in ours if place not in theirs and place[0] <= last):
        first, count = found.get(key, (step, 0))
        found[key] = (first, count + 1)
    return found


def _parting(key: str, places: Sequence[tuple[int, Any, Any]]) -> Parting:
    step, a, b = places[0]
    apart = [(abs(x - y), at) for at, x, y in places if _is_number(x) and _is_number(y) and math.isfinite(x - y)]
    largest, at = max(apart, key=lambda one: one[0], default=(None, None))
    return Parting(key, step, a, b, largest, at)


# --- words -----------------------------------------------------------------------------------------------------------


def format_both(a: Any, b: Any) -> tuple[str, str]:
    """Two values for a person to read: with six digits, or as many as it takes to see that they differ."""
    if isinstance(a, float) and isinstance(b, float) and f"{a:.6g}" != f"{b:.6g}":
        return f"{a:.6g}", f"{b:.6g}"
    return _format_value(a), _format_value(b)


def short_hash(sha256: str) -> str:
    return sha256[:_HASH]


def _format_value(value: Any) -> str:
    if value is MISSING:
        return "(none)"
    if isinstance(value, str):
        text = short_hash(value) if len(value) == 64 and " " not in value else value
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"
