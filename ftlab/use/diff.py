"""``ftlab diff A B``: what differs between two runs, and the first step at which their metrics part."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_json
from ftlab.errors import ConfigError, Mistake
from ftlab.rundir import compare as parts
from ftlab.rundir import summary
from ftlab.rundir.compare import MISSING, Difference, Metrics, Pair
from ftlab.rundir.directory import RunDir
from ftlab.rundir.records import read_ledger
from ftlab.schema import DiffTask, Run

_PARTS = ("identity", "operational", "data", "environment", "results")
_TITLES = {
    "identity": "config: what makes a run what it is",
    "operational": "config: what may differ between a run's start and its continuation",
    "data": "data",
    "environment": "environment",
    "results": "results",
}


@dataclass(frozen=True)
class Side:
    """One of the two runs, as it was written."""

    run_dir: RunDir
    manifest: dict[str, Any]
    phases: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, folder: str) -> Side:
        """:raises RunDirError: it is no run directory, or one of its files cannot be read."""
        run_dir = RunDir.open(Path(folder).expanduser())
        summary.check_readable(run_dir)
        phases = {phase["name"]: phase for phase in summary.read_plan(run_dir)["phases"]}
        return cls(run_dir, run_dir.manifest(), phases, run_dir.logged_by_phase())

    def result(self, phase: str) -> dict[str, Any] | None:
        return self.manifest.get("phases", {}).get(phase)

    def lines(self, phase: str) -> list[dict[str, Any]]:
        return self.metrics.get(phase, [])  # nothing was logged of a phase that has not begun


@dataclass(frozen=True)
class Comparison:
    """:param parts: name -> differences. :param metrics: by the name of the pair."""

    pairs: list[Pair]
    only_a: list[str]
    only_b: list[str]
    parts: dict[str, list[Difference]]
    metrics: dict[str, Metrics]

    @property
    def equal(self) -> bool:
        """But for what may differ between a run's start and its continuation, and for what is around it."""
        matters = [self.only_a, self.only_b, *(self.parts[part] for part in ("identity", "data", "results"))]
        return not any(matters) and all(one.equal for one in self.metrics.values())


def diff(run: Run, overrides: Sequence[str]) -> None:
    """Print what differs. Writes nothing.

    :raises ConfigError: two runs were not named.
    :raises RunDirError: one of them cannot be read.
    """
    task = run.task
    assert isinstance(task, DiffTask)
    if task.first is None or task.second is None:
        lacking = "second" if task.first else "first"
        said = "ftlab diff compares two runs: ftlab diff outputs/my-run outputs/my-other-run"
        raise ConfigError([Mistake(f"task.{lacking}", said)])
    a, b = Side.read(task.first), Side.read(task.second)
    found = compare(a, b, task.tolerance)
    if task.format == "json":
        echo_json(_as_dict(a, b, found))
    else:
        _print(a, b, found)


def compare(a: Side, b: Side, tolerance: float) -> Comparison:
    pairs, only_a, only_b = parts.pairs([*a.phases], [*b.phases])
    configs = [(pair.name, one) for pair in pairs for one in parts.config(a.phases[pair.a], b.phases[pair.b])]
    ledgers = [(pair, read_ledger(a.run_dir.ledger(pair.a)), read_ledger(b.run_dir.ledger(pair.b))) for pair in pairs]
    found = {
        "identity": [
            *parts.merge((name, one) for name, (is_identity, one) in configs if is_identity),
            *parts.control(a.manifest, b.manifest),
        ],
        "operational": parts.merge((name, one) for name, (is_identity, one) in configs if not is_identity),
        "data": parts.merge((pair.name, one) for pair, ours, theirs in ledgers for one in parts.data(ours, theirs)),
        "environment": list(parts.environment(a.manifest, b.manifest)),
        "results": parts.merge(
            (pair.name, one) for pair in pairs
            for one in parts.results(a.result(pair.a), b.result(pair.b), tolerance)
        ),
    }  # fmt: skip
    metrics = {
        pair.name: parts.metrics(a.lines(pair.a), b.lines(pair.b), tolerance, parts.OF_EARLIER_PHASES) for pair in pairs
    }
    return Comparison(pairs, only_a, only_b, found, metrics)


# --- the table -------------------------------------------------------------------------------------------------------


def _print(a: Side, b: Side, comparison: Comparison) -> None:
    to = Terminal(highlight=False, emoji=False)
    for letter, side in (("A", a), ("B", b)):
        status = summary.summarize(side.run_dir.path).status
        to.print(Text(f"{letter}  {side.run_dir.path}  {status}  {side.manifest.get('rerun', '')}"), soft_wrap=True)
    for letter, names in (("A", comparison.only_a), ("B", comparison.only_b)):
        if names:
            to.print(f"[yellow]phases in {letter} alone: {', '.join(names)}[/yellow]", soft_wrap=True)
    for part in _PARTS:
        _print_part(to, part, comparison)
        if part == "results":
            _print_weights(to, a, b, comparison.pairs)
    to.print("\n[bold]metrics[/bold]: the first step at which they part")
    for name, metrics in comparison.metrics.items():
        _print_metrics(to, name, metrics)
    steps = [one for one in comparison.parts["operational"] if one.key == "train.logging_steps"]
    if steps:
        to.print("train.logging_steps differs: what is logged is a mean over other steps")


def _print_part(to: Terminal, part: str, differences: Comparison) -> None:
    rows = differences.parts[part]
    title = Text.assemble("\n", (_TITLES[part], "bold"))
    if not rows:
        to.print(title.append(": no difference"), soft_wrap=True)
        return
    to.print(title, soft_wrap=True)
    with_phases = len(differences.pairs) > 1 and part != "environment"
    phases = [", ".join(one.phases) if len(one.phases) < len(differences.pairs) else "all" for one in rows]
    cells = [
        (one.key, *([phase] if with_phases else []), *parts.format_both(one.a, one.b))
        for one, phase in zip(rows, phases)
    ]
    _table(to, ("", *(["phases"] if with_phases else []), "A", "B"), cells)


def _print_weights(to: Terminal, a: Side, b: Side, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        ours, theirs = a.result(pair.a), b.result(pair.b)
        if ours is not None and theirs is not None:
            hashes = ", ".join(f"{name} {parts.short_hash(hash_)}" for name, hash_ in ours["sha256"].items())
            said = f"equal ({hashes})" if ours["sha256"] == theirs["sha256"] else "they differ"
            to.print(Text(f"  final weights of {pair.name}: {said}"), soft_wrap=True)


def _print_metrics(to: Terminal, name: str, metrics: Metrics) -> None:
    ours, theirs = metrics.lines
    if metrics.partings:
        first = [one.key for one in metrics.partings if one.step == metrics.first_step]
        said = f"step {metrics.first_step}, in {', '.join(first)}"
    elif not ours or not theirs:
        said = f"nothing to compare: {ours} lines logged in A, {theirs} in B"
    elif metrics.equal:
        said = f"equal in all {ours} logged lines"
    else:
        said = f"equal where both logged ({ours} lines in A, {theirs} in B)"
    to.print(Text(f"  {name}: {said}"), soft_wrap=True)
    if metrics.partings:
        rows = [
            (one.key, str(one.step), *parts.format_both(one.a, one.b),
             "" if one.largest is None else f"{one.largest:.6g} at step {one.largest_step}")
            for one in metrics.partings
        ]  # fmt: skip
        _table(to, ("", "first at step", "A", "B", "largest difference"), rows)
    for letter, alone in (("A", metrics.alone_a), ("B", metrics.alone_b)):
        for step, count in dict.fromkeys(alone.values()):
            keys = [key for key in alone if alone[key] == (step, count)]
            times = "once, at" if count == 1 else f"{count} times, first at"
            to.print(Text(f"  logged by {letter} alone {times} step {step}: {', '.join(keys)}"), soft_wrap=True)
    a_ends, b_ends = metrics.ends
    if ours and theirs and a_ends != b_ends:
        to.print(
            f"  A ends at step {a_ends}, B at step {b_ends}; the rest of the longer one is left out", soft_wrap=True
        )


def _table(to: Terminal, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As wide as the terminal, with long values on several lines; in a pipe as wide as it is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", *header):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row("", *map(Text, row))
    if to.known_width is None:
        wide = sum(max(map(cell_len, column)) + 2 for column in zip(header, *rows)) + 2
        to = Terminal(highlight=False, emoji=False, width=wide)
    to.print(table)


# --- json ------------------------------------------------------------------------------------------------------------


def _as_dict(a: Side, b: Side, comparison: Comparison) -> dict[str, Any]:
    return {
        "a": str(a.run_dir.path),
        "b": str(b.run_dir.path),
        "equal": comparison.equal,
        "phases": {"both": [vars(pair) for pair in comparison.pairs], "a": comparison.only_a, "b": comparison.only_b},
        "config": {part: _differences_as_dicts(comparison.parts[part]) for part in ("identity", "operational")},
        **{part: _differences_as_dicts(comparison.parts[part]) for part in ("data", "environment", "results")},
        "metrics": {name: _metrics_as_dict(metrics) for name, metrics in comparison.metrics.items()},
    }


def _differences_as_dicts(differences: Iterable[Difference]) -> list[dict[str, Any]]:
    """A side that has no such key has none here either."""
    return [
        {"key": one.key, **({"phases": one.phases} if one.phases else {}),
         **{side: _json_number(value) for side, value in (("a", one.a), ("b", one.b)) if value is not MISSING}}
        for one in differences
    ]  # fmt: skip


def _metrics_as_dict(metrics: Metrics) -> dict[str, Any]:
    partings = [{**vars(one), "a": _json_number(one.a), "b": _json_number(one.b)} for one in metrics.partings]
    alone = {
        side: {key: {"first_step": step, "values": count} for key, (step, count) in keys.items()}
        for side, keys in (("a", metrics.alone_a), ("b", metrics.alone_b))
    }
    sides = {name: dict(zip("ab", values)) for name, values in (("lines", metrics.lines), ("ends", metrics.ends))}
    return {**sides, "equal": metrics.equal, "first_step": metrics.first_step, "parts": partings, "alone": alone}


def _json_number(value: Any) -> Any:
    """Numbers that JSON has no way to write become words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
