"""Pieces of HTML that the parts of a report are made of; all that comes from runs is escaped."""

from __future__ import annotations

import html
import json
from typing import Any

from ftlab.base.terminal import escape_controls
from ftlab.use.report.collect import RunPage
from ftlab.use.report.figures import style_of

NONE = "–"  # in a table: there is no value
_DASHES = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "8 3 2 3"}


def as_text(value: object) -> str:
    return html.escape(escape_controls(str(value)))


def as_json(value: Any) -> str:
    """JSON that ends no script, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def preformatted(text: str) -> str:
    """HTML drops a line break that a ``pre`` begins with."""
    return f"\n{as_text(text)}" if text.startswith("\n") else as_text(text)


def quiet(text: str) -> str:
    """A paragraph of small print. :param text: HTML."""
    return f'<p class="quiet">{text}</p>' if text else ""


def section(name: str, title: str, *parts: str) -> str:
    """:param parts: HTML."""
    head = f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{title}</h2>'
    return "\n".join([head, *filter(None, parts), "</section>"])


def swatch(run: RunPage) -> str:
    """The mark of a run's curves."""
    colour, dash, _ = style_of(run.entry.number)
    return (
        '<svg class="swatch" width="26" height="10" viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5h24" '
        f'stroke="{colour}" stroke-width="3" stroke-dasharray="{_DASHES[dash]}"/></svg>'
    )
