"""What the benchmarks that compare two sides have in common.

A benchmark is a list of :class:`Case` and a function that measures one side. Every measurement is a process of its own,
started by the benchmark's own file, so that each has its own peak of memory and nothing is warm; sides take turns, and
each is first in every other repeat. Of a figure the median of the repeats is shown, and of a ratio the median of the
ratios of the pairs that ran one after the other.

A ratio is ftlab's figure over that of the best other side. It is held against its limit, where it has one, and against
the one of ``baselines/NAME.json``: the command ends with 1 where it is on the wrong side of the limit, or worse than
the baseline by more than the tolerance. ``--record`` writes the baseline. Ratios of one machine are not those of
another: record your own before a change, and compare after it. Wall seconds need a machine that does nothing else; CPU
seconds need it less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASELINES = Path(__file__).resolve().parent / "baselines"
OURS = "ftlab"
MIB = 2**20
Figures = dict[str, float]


@dataclass(frozen=True)
class Ratio:
    """ftlab's figure over the best other side's.

    :param figure: its name in what a side measures. :param at_least: the limit of one that is better higher, such as
    pairs per second. :param at_most: of one that is better lower, such as bytes. :param better: ``higher`` or
    ``lower``, where there is no limit. :param peers: how the names of the sides compared with begin; None: all others.
    """

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    better: str | None = None
    peers: str | None = None

    @property
    def is_better_higher(self) -> bool:
        return self.at_least is not None or self.better == "higher"

    @property
    def limit(self) -> float | None:
        return self.at_least if self.at_least is not None else self.at_most

    def is_worse(self, value: float, limit: float) -> bool:
        return value < limit if self.is_better_higher else value > limit

    def of(self, turn: dict[str, Figures]) -> float | None:
        """:param turn: figures of each side. :return: None where a side has no such figure."""
        others = [
            figures[self.figure]
            for side, figures in turn.items()
            if side != OURS and side.startswith(self.peers or "") and figures.get(self.figure)
        ]
        if not others or self.figure not in turn[OURS]:
            return None
        return turn[OURS][self.figure] / (max(others) if self.is_better_higher else min(others))


@dataclass(frozen=True)
class Floor:
    """What a figure of ftlab's own has to reach."""

    figure: str
    least: float


@dataclass(frozen=True)
class Case:
    """The same work of several sides.

    :param sides: by name, the keyword arguments of the benchmark's ``measure``; ftlab's is called ``ftlab``.
    :param equal: figures that have to be equal but for ``tolerance`` (a share), or it was not the same work.
    :param shown: the figures of the table; none: all.
    """

    name: str
    sides: dict[str, dict[str, Any]]
    ratios: tuple[Ratio, ...] = ()
    floors: tuple[Floor, ...] = ()
    equal: tuple[str, ...] = ()
    tolerance: float = 1e-3
    shown: tuple[str, ...] = ()


Measure = Callable[..., Figures]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The options that all these benchmarks have; a benchmark may add its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each side, in turns")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only those whose names begin so")
    parser.add_argument("--out", type=Path, help="a JSON file for every measurement")
    parser.add_argument("--baselines", type=Path, default=BASELINES, help="the folder of recorded ratios")
    parser.add_argument("--record", action="store_true", help="write the ratios there")
    parser.add_argument("--tolerance", type=float, default=0.1, help="by which share a ratio may be worse")
    parser.add_argument("--threads", type=int, default=1, help="OMP_NUM_THREADS of every side")
    parser.add_argument("--small", action="store_true", help="the same at a small size: whether it runs, not how fast")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a measurement, in its own process
    return parser


def main(name: str, options: argparse.Namespace, cases: Callable[[Any], Sequence[Case]], measure: Measure) -> None:
    """Run the benchmark called ``name``, which :param cases: makes of its options; or, in a process of its own, one
    measurement. Ends the process: 1 where a limit or the baseline is missed."""
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    chosen = [case for case in cases(options) if not options.cases or case.name.startswith(tuple(options.cases))]
    if not chosen:
        sys.exit(f"no case begins with {' or '.join(options.cases or ['anything'])}")
    recorded = options.baselines / f"{name}.json"
    baseline = json.loads(recorded.read_text("utf-8"))["cases"] if recorded.is_file() else {}
    found: dict[str, Any] = {}
    complaints: list[str] = []
    for case in chosen:
        turns = run(case, 1 if options.small else options.repeats, options.threads)
        print(table(case, turns), flush=True)
        ratios = {ratio.figure: value for ratio in case.ratios if (value := median_ratio(ratio, turns)) is not None}
        for ratio in case.ratios:
            if ratio.figure not in ratios:
                continue
            line, complaint = judge(case, ratio, ratios[ratio.figure], baseline, options)
            print(line, flush=True)
            complaints += complaint
        complaints += [] if options.small else below_floor(case, turns)
        print()
        found[case.name] = {"turns": turns, "ratios": ratios}
    conditions = {"threads": options.threads, "repeats": options.repeats, "versions": versions()}
    if options.out is not None:
        options.out.write_text(json.dumps({"benchmark": name, **conditions, "cases": found}, indent=1) + "\n", "utf-8")
    if options.record and not options.small:
        kept = {case: {figure: round(value, 4) for figure, value in at["ratios"].items()} for case, at in found.items()}
        content = {**conditions, "cases": {**baseline, **kept}}
        options.baselines.mkdir(exist_ok=True)
        recorded.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    for complaint in complaints:
        print(f"worse than is allowed: {complaint}")
    sys.exit(bool(complaints))


def run(case: Case, repeats: int, threads: int) -> list[dict[str, Figures]]:
    """Measure every side so often, in turns."""
    turns = []
    for repeat in range(repeats):
        names = list(case.sides) if repeat % 2 == 0 else list(reversed(case.sides))
        turn = {side: measured(case.sides[side], threads) for side in names}
        for figure in case.equal:
            values = [figures[figure] for figures in turn.values() if figure in figures]
            if values and max(values) - min(values) > case.tolerance * abs(max(values)):
                sys.exit(f"{case.name}: not the same work: {figure} {values}")
        turns.append({side: turn[side] for side in case.sides})
    return turns


def measured(arguments: dict[str, Any], threads: int) -> Figures:
    """One measurement, in a process of this benchmark's file and with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "FTLAB_CACHE": folder, "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        command = [sys.executable, sys.argv[0], "--one", json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def median_ratio(ratio: Ratio, turns: Sequence[dict[str, Figures]]) -> float | None:
    values = [value for turn in turns if (value := ratio.of(turn)) is not None]
    return statistics.median(values) if values else None


def table(case: Case, turns: Sequence[dict[str, Figures]]) -> str:
    """Medians in Markdown: a line for each side, a column for each figure."""
    columns = [*dict.fromkeys(figure for turn in turns for side in turn.values() for figure in side)]
    columns = [figure for figure in columns if not case.shown or figure in case.shown]
    lines = [f"| {case.name} | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for side in case.sides:
        cells = []
        for figure in columns:
            values = [turn[side][figure] for turn in turns if figure in turn[side]]
            cells.append(shown(statistics.median(values)) if values else "")
        lines.append(f"| {side} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def judge(
    case: Case, ratio: Ratio, value: float, baseline: dict[str, dict[str, float]], options: Any
) -> tuple[str, list[str]]:
    """What is said of a ratio, and what is wrong with it."""
    complaints = []
    told = f"{case.name}: {ratio.figure} {value:.3f} of the other side's"
    limit = ratio.limit
    if limit is not None:
        told += f"; {'at least' if ratio.is_better_higher else 'at most'} {limit} is wanted"
        if ratio.is_worse(value, limit):
            complaints.append(f"{case.name}: {ratio.figure} {value:.3f}, and {limit} is wanted")
    before = baseline.get(case.name, {}).get(ratio.figure)
    if before is not None:
        told += f"; {before:.3f} in the baseline"
        allowed = before * (1 - options.tolerance if ratio.is_better_higher else 1 + options.tolerance)
        if ratio.is_worse(value, allowed):
            complaints.append(f"{case.name}: {ratio.figure} {value:.3f}, and {before:.3f} in the baseline")
    if options.small:  # of a small size it says nothing
        return f"{case.name}: {ratio.figure} {value:.3f}", []
    return told, complaints


def below_floor(case: Case, turns: Sequence[dict[str, Figures]]) -> list[str]:
    """What is said of ftlab's own figures that do not reach their floor, or are not there."""
    complaints = []
    for floor in case.floors:
        values = [turn[OURS][floor.figure] for turn in turns if floor.figure in turn[OURS]]
        if not values or statistics.median(values) < floor.least:
            found = shown(statistics.median(values)) if values else "not measured"
            complaints.append(f"{case.name}: {floor.figure} {found}, and {floor.least} is wanted")
    return complaints


def versions() -> dict[str, str]:
    from ftlab.base.machine import package_version

    return {name: found for name in ("torch", "transformers", "trl", "peft") if (found := package_version(name))}


def draw(
    path: Path, found: dict[int, Figures], panels: Sequence[Sequence[str]], over: str, scale: str = "linear"
) -> None:
    """A picture of some figures side by side.

    :param panels: the figures of each, the first of which names it. :param over: what they were measured at.
    :param scale: of that axis.
    """
    from matplotlib import pyplot

    figure, drawn = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.2))
    for axes, names in zip(drawn, panels):
        for name in names:
            axes.plot(list(found), [figures[name] for figures in found.values()], marker="o", label=name)
        axes.set_xscale(scale)
        axes.set_xlabel(over)
        axes.set_ylabel(names[0])
        axes.set_ylim(bottom=0)
        if len(names) > 1:
            axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def reset_peak() -> None:
    """Let :func:`peak_mib` begin anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """The most resident memory of this process since :func:`reset_peak`, libraries included."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    """Resident memory of this process now."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def command(words: Sequence[str], folder: str | Path | None = None, code: int = 0) -> Figures:
    """Wall and CPU seconds and peak memory of a whole process of Python. Nothing else may be waited for in this one.

    :param code: with which it is to end. :raises SystemExit: it ended with another.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall s": wall, "CPU s": cpu, "peak MiB": after.ru_maxrss / 1024}
