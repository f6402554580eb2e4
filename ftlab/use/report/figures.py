"""The pictures of a report, as Plotly figures. Colours of ground and text are the page's, which has light and dark."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ftlab.rundir.leaderboard import Objective
from ftlab.use.report.collect import Curve, Report, RunPage

# Colours that are told apart with any colour vision (after Okabe and Ito, https://jfly.uni-koeln.de/color/), each with
# a contrast of at least 3 on the light and on the dark ground alike.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C1689B", "#94790C", "#7B61C9", "#7A7A7A")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_BEST, _BETWEEN, _WORST = (0, 114, 178), (140, 123, 147), (213, 94, 0)
_POINTS = 1000  # of a curve that is drawn: more than a screen has columns
_LOGARITHMIC = 20  # times the smallest that the largest value of an axis is at least
_TICKS = 7  # of an axis of parallel coordinates
_HEIGHT = 380

Figure = dict[str, Any]


def style_of(number: int) -> tuple[str, str, str]:
    """Colour, dash and symbol of a run: 28 are told apart, then they come again."""
    turn = number // len(COLOURS) % len(DASHES)
    return COLOURS[number % len(COLOURS)], DASHES[turn], SYMBOLS[turn]


def curves(report: Report, kind: str) -> dict[str, Figure]:
    """A figure for each measure, a trace for each run. :param kind: ``train`` or ``measured``."""
    pages = sorted(report.runs, key=lambda run: run.entry.number)
    keys = dict.fromkeys(key for run in pages for key in getattr(run, kind))
    first = ("loss",) if kind == "train" else (report.board.objective.measure if report.board.objective else "",)
    found = {}
    for key in sorted(keys, key=lambda key: key not in first):
        figure = go.Figure(layout=_layout("step", key))
        for run in pages:
            if key in getattr(run, kind):
                figure.add_trace(_curve(report, run, getattr(run, kind)[key], kind == "measured"))
        found[key] = _plain(figure)
    return found


def stride(curve: Curve) -> int:
    """Every how many values of a curve one is drawn."""
    return max(1, math.ceil(len(curve.values) / _POINTS))


def _curve(report: Report, run: RunPage, curve: Curve, has_markers: bool) -> go.Scatter:
    colour, dash, symbol = style_of(run.entry.number)
    is_best = report.best is run and len(report.runs) > 1
    every = stride(curve)
    last = len(curve.values) - 1
    chosen = [at for at in range(len(curve.values)) if at % every == 0 or at == last]
    return go.Scatter(
        x=[curve.steps[at] for at in chosen],
        y=[curve.values[at] for at in chosen],
        customdata=[[curve.steps[at], curve.tokens[at], curve.seconds[at]] for at in chosen],
        name=_text(run.label), meta={"run": run.entry.number},
        mode="lines+markers" if has_markers or len(chosen) == 1 else "lines",
        line={"color": colour, "dash": dash, "width": 3.5 if is_best else 1.75},
        marker={"color": colour, "symbol": symbol, "size": 8 if is_best else 6},
        hovertemplate=f"{_described(run)}<br>step %{{customdata[0]}}: %{{y:.5~g}}<extra></extra>",
    )  # fmt: skip


# --- hyperparameters -------------------------------------------------------------------------------------------------


def scatters(report: Report) -> dict[str, Figure]:
    """The objective over each key that differs, and over the seconds that a run took."""
    objective = report.board.objective
    runs = [run for run in report.runs if run.entry.rank is not None]
    if objective is None or not runs:
        return {}
    found = {}
    for key in report.keys:
        values = [run.settings.get(key, "-") for run in runs]
        found[key] = _scatter(runs, values, key, objective)
    seconds = [run.entry.seconds for run in runs]
    if len(runs) > 1 and None not in seconds:
        found["seconds of work"] = _scatter(runs, [str(value) for value in seconds], "seconds of work", objective)
    return found


def _scatter(runs: Sequence[RunPage], words: Sequence[str], key: str, objective: Objective) -> Figure:
    numbers = _numbers(words)
    layout = _layout(key, objective.measure)
    layout["xaxis"] |= _axis(words, numbers)
    layout["height"], layout["margin"]["t"] = 290, 16
    figure = go.Figure(layout=layout)
    for run, word, at in zip(runs, words, range(len(runs))):
        colour, _, symbol = style_of(run.entry.number)
        figure.add_trace(go.Scatter(
            x=[word if numbers is None else numbers[at]], y=[run.entry.value], name=_text(run.label),
            meta={"run": run.entry.number}, mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 11, "opacity": 0.85},
            hovertemplate=f"{_described(run)}<br>{_text(objective.measure)}: %{{y:.5~g}}<extra></extra>",
        ))  # fmt: skip
    return _plain(figure)


def _axis(words: Sequence[str], numbers: Sequence[float] | None) -> dict[str, Any]:
    if numbers is None:
        return {"type": "category", "categoryorder": "array", "categoryarray": list(dict.fromkeys(sorted(words)))}
    different = sorted({*numbers})
    ticks = {"tickvals": different, "ticktext": [f"{value:g}" for value in different]}
    return {"type": "log" if _is_wide(numbers) else "linear", "exponentformat": "e"} | (
        ticks if len(different) <= _TICKS else {}
    )


def parallel(report: Report) -> Figure | None:
    """Parallel coordinates: a line for each run through its settings to its objective, coloured by rank. Drawn as an
    ordinary line chart, which needs no WebGL: a browser on another machine's screen often has none."""
    objective = report.board.objective
    runs = [run for run in report.runs if run.entry.rank is not None]
    if objective is None or not report.keys or len(runs) < 2:
        return None
    axes = [(key, [run.settings.get(key, "-") for run in runs]) for key in report.keys]
    axes.append((objective.measure, [repr(run.entry.value) for run in runs]))
    placed = [_place(words) for _, words in axes]
    layout = _layout("", "")
    layout |= {"margin": {"l": 30, "r": 70, "t": 40, "b": 20}, "hovermode": "closest", "height": 420}
    layout["xaxis"] = {
        "range": [-0.15, len(axes) - 0.65], "tickvals": list(range(len(axes))), "side": "top", "ticks": "",
        "ticktext": [_axis_name(key) for key, _ in axes], "showgrid": False, "showline": False, "zeroline": False,
        "fixedrange": True,
    }  # fmt: skip
    layout["yaxis"] = {"range": [-0.06, 1.06], "visible": False, "fixedrange": True}
    layout["shapes"] = [
        {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"width": 1}, "layer": "below"}
        for at in range(len(axes))
    ]
    layout["annotations"] = [
        {"x": at, "y": y, "text": _text(word), "showarrow": False, "xanchor": "left", "xshift": 6, "borderpad": 2}
        for at, (_, ticks) in enumerate(placed)
        for y, word in ticks
    ]
    figure = go.Figure(layout=layout)
    for at, run in sorted(enumerate(runs), key=lambda pair: -(pair[1].entry.rank or 0)):  # the best on top
        rank = run.entry.rank or 1
        colour = _of_rank((rank - 1) / max(1, len(runs) - 1))
        figure.add_trace(go.Scatter(
            x=list(range(len(axes))), y=[heights[at] for heights, _ in placed], name=_text(run.label),
            meta={"run": run.entry.number}, mode="lines+markers",
            line={"color": colour, "width": 4 if rank == 1 else 1.75}, marker={"color": colour, "size": 6},
            hovertemplate=f"{_described(run)}<br>{_text(objective.measure)}: {run.entry.value:.5g}"
            f" (rank {rank})<extra></extra>",
        ))  # fmt: skip
    return _plain(figure)


def _place(words: Sequence[str]) -> tuple[list[float], list[tuple[float, str]]]:
    """How high each value is on an axis from 0 to 1, and the ticks of the axis with their text."""
    numbers = _numbers(words)
    if numbers is None:
        names = sorted({*words})
        heights = {name: 0.5 if len(names) == 1 else at / (len(names) - 1) for at, name in enumerate(names)}
        return [heights[word] for word in words], [(height, name) for name, height in heights.items()]
    scale = math.log if _is_wide(numbers) else float
    low, high = scale(min(numbers)), scale(max(numbers))
    different = sorted({*numbers})

    def height(value: float) -> float:
        return 0.5 if high == low else (scale(value) - low) / (high - low)

    if len(different) <= _TICKS:
        ticks = [(height(value), f"{value:g}") for value in different]
    else:
        between = [low + part * (high - low) / 4 for part in range(5)]
        values = [math.exp(value) if _is_wide(numbers) else value for value in between]
        ticks = [(part / 4, f"{value:.4g}") for part, value in enumerate(values)]
    return [height(value) for value in numbers], ticks


def _numbers(words: Sequence[str]) -> list[float] | None:
    """None where one of them is none."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _is_wide(numbers: Sequence[float]) -> bool:
    """Whether an axis is logarithmic."""
    return min(numbers) > 0 and max(numbers) / min(numbers) >= _LOGARITHMIC


def _of_rank(part: float) -> str:
    """From the best, 0, to the worst, 1: blue over grey to orange."""
    a, b, at = (_BEST, _BETWEEN, part * 2) if part < 0.5 else (_BETWEEN, _WORST, part * 2 - 1)
    red, green, blue = (round(x + (y - x) * at) for x, y in zip(a, b))
    return f"#{red:02x}{green:02x}{blue:02x}"


# --- what all have ---------------------------------------------------------------------------------------------------


def _layout(x: str, y: str) -> dict[str, Any]:
    return {
        "template": "none", "height": _HEIGHT, "margin": {"l": 56, "r": 16, "t": 30, "b": 52}, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "hovermode": "closest",
        "xaxis": {"title": {"text": _text(x)}, "zeroline": False, "automargin": True},
        "yaxis": {"title": {"text": _text(y)}, "zeroline": False, "automargin": True},
    }  # fmt: skip


def _described(run: RunPage) -> str:
    """What a run is, in lines."""
    settings = [f"{key}={value}" for key, value in run.settings.items()]
    return "<br>".join([f"<b>{_text(run.label)}</b>", *map(_text, settings)])


def _axis_name(key: str) -> str:
    """In two lines where it has two parts."""
    group, _, name = key.rpartition(".")
    return f"{_text(group)}.<br>{_text(name)}" if group else _text(key).replace(" ", "<br>", 1)


def _text(word: str) -> str:
    """As a text that is no markup and no template of Plotly's."""
    return html.escape(word).replace("%{", "%&#123;").replace("\n", " ")


def _plain(figure: go.Figure) -> Figure:
    plain: Figure = json.loads(figure.to_json())
    return plain
