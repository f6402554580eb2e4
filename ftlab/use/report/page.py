"""The page of a report: one file that needs nothing beside it and fetches nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from ftlab import __version__
from ftlab.base.numbers import readable
from ftlab.use.report import figures
from ftlab.use.report.answers import answers
from ftlab.use.report.collect import Report, RunPage
from ftlab.use.report.markup import as_json, as_text, quiet, section, swatch
from ftlab.use.report.tables import costs, evaluations, leaderboard

_HERE = Path(__file__).parent
# A browser keeps the page from fetching anything, whatever it holds.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_AXIS_WIDTH = 120  # pixels that an axis of parallel coordinates has at least


def page(report: Report, smoothing: float) -> str:
    """:param smoothing: of the curves of training, from 0 to below 1."""
    drawn = {
        "train": figures.curves(report, "train"), "measured": figures.curves(report, "measured"),
        "parallel": figures.parallel(report), "scatter": figures.scatters(report),
    }  # fmt: skip
    sections = [
        _best(report), _problems(report), leaderboard(report), _curves(report, drawn, smoothing),
        _hyperparameters(report, drawn), evaluations(report), answers(report), costs(report),
    ]  # fmt: skip
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>ftlab report: {as_text(report.title)}</title>",
        f"<style>\n{_asset('report.css')}</style>\n</head>\n<body>",
        _head(report), "<main>", *filter(None, sections), "</main>",
        f'<script type="application/json" id="figures">{as_json(drawn)}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>\n{_asset('report.js')}</script>\n</body>\n</html>\n",
    ])  # fmt: skip


def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _head(report: Report) -> str:
    objective, folder = report.board.objective, report.board.folder
    told = [", ".join(f"{count} {state}" for state, count in report.board.states.items())]
    if objective is not None:
        told.append(f"ranked by {objective.measure}, {'lower' if objective.minimize else 'higher'} is better")
    told += [str(folder)] if folder is not None else []
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime())
    return (
        f'<header><div><h1>{as_text(report.title)}</h1><p class="quiet">{as_text(" · ".join(told))}<br>'
        f"made {made} by ftlab {as_text(__version__)}</p></div>"
        '<button type="button" id="theme" aria-live="polite">theme: as the system</button></header>'
    )


def _best(report: Report) -> str:
    best, objective = report.best, report.board.objective
    if best is None:
        return ""
    if len(report.runs) < 2 or objective is None or best.entry.value is None:
        return section("best", "Run it again", _rerun(best)) if best.rerun is not None else ""
    facts = {"run": f"{swatch(best)} {as_text(best.label)}"}
    facts |= {as_text(key): as_text(value) for key, value in best.settings.items()}
    facts[as_text(objective.measure)] = readable(best.entry.value, objective.measure)
    told = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    place = quiet(as_text(best.entry.path))
    return section("best", "Best config", f'<dl class="facts">{told}</dl>', place, _rerun(best))


def _rerun(run: RunPage) -> str:
    if run.rerun is None:
        return ""
    where = f", from {as_text(run.folder)}" if run.folder is not None else ""
    return (
        f'<p>The command that runs it again{where}:</p><div class="command"><pre tabindex="0" id="rerun">'
        f'{as_text(run.rerun)}</pre><button type="button" data-copy="rerun">copy</button></div>'
    )


def _problems(report: Report) -> str:
    items = "".join(f"<li>{as_text(problem)}</li>" for problem in report.problems)
    return section("problems", "Problems", f"<ul>{items}</ul>") if items else ""


# --- pictures --------------------------------------------------------------------------------------------------------


def _curves(report: Report, drawn: dict[str, Any], smoothing: float) -> str:
    if not drawn["train"] and not drawn["measured"]:
        return section("curves", "Learning curves", quiet("Nothing is logged yet."))
    every = max(figures.stride(curve) for run in report.runs for curve in [*run.train.values(), *run.measured.values()])
    note = f"Of long curves one value of {every} is drawn." if every > 1 else ""
    tools = (
        '<p class="tools"><label>over <select id="axis"><option value="0">steps</option>'
        '<option value="1">tokens</option><option value="2">seconds of work</option></select></label> '
        f'<label>smoothing <input id="smoothing" type="range" min="0" max="0.99" step="0.01" value="{smoothing}"> '
        f'<output for="smoothing" id="smoothing-value">{smoothing:g}</output></label> '
        '<label><input id="logarithmic" type="checkbox"> logarithmic</label></p>'
    )
    faint = "each run's values as they were logged, faint, and smoothed"
    measured = "what was measured on the validation split and of golden prompts"
    charts = _chart("train", "Training", drawn, faint), _chart("measured", "Evaluations", drawn, measured)
    return section("curves", "Learning curves", quiet(note), tools, *charts)


def _chart(name: str, title: str, drawn: dict[str, Any], about: str) -> str:
    if not drawn[name]:
        return f"<h3>{title}</h3>{quiet('No run has logged any.')}"
    options = "".join(f'<option value="{as_text(key)}">{as_text(key)}</option>' for key in drawn[name])
    return (
        f'<div class="chart-head"><h3>{title}</h3>'
        f'<label class="measure">measure <select data-chart="{name}">{options}</select></label></div>'
        f'<div class="chart" id="chart-{name}" role="img" aria-label="{title}: {about}"></div>'
    )


def _hyperparameters(report: Report, drawn: dict[str, Any]) -> str:
    if len(report.runs) < 2:
        return ""
    if not drawn["scatter"]:
        return section("settings", "Hyperparameters", quiet("No run has a value to compare."))
    missing = sum(run.entry.rank is None for run in report.runs)
    notes = [f"{missing} of {len(report.runs)} runs have no value, and are not drawn here."] * bool(missing)
    notes += ["The runs do not differ in what they were told."] * (not report.keys)
    parallel = ""
    if drawn["parallel"] is not None:
        about = "settings and objective of each run; the leaderboard has the same values"
        width = _AXIS_WIDTH * (len(report.keys) + 2)
        parallel = (
            "<h3>Parallel coordinates</h3>"
            + quiet(
                'A line is a run, from the <span class="ramp">best</span> to the worst by colour, the best one thick.'
            )
            + '<div class="wide" tabindex="0" role="region" aria-label="parallel coordinates">'
            f'<div class="chart" id="chart-parallel" style="min-width:{width}px" role="img" aria-label="{about}"></div>'
            "</div>"
        )
    scatter = "".join(
        f'<div class="chart" data-scatter="{as_text(key)}" role="img" aria-label="the objective over {as_text(key)}">'
        "</div>"
        for key in drawn["scatter"]
    )
    title = "<h3>The objective over each</h3>"
    return section(
        "settings", "Hyperparameters", quiet(" ".join(notes)), parallel, title, f'<div class="grid">{scatter}</div>'
    )
