"""What ``ftlab inspect`` prints, as one page of HTML that needs nothing beside it."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

from ftlab.base.console import Terminal
from ftlab.use.inspect.show import LEGEND, SampleView, as_html

_WIDTH = 120
# Mid tones for what is said beside the text, and a green with its own text colour, read on either ground.
_STYLE = """
:root { color-scheme: light dark; --trained: #b7ebc3; --ink: #0a3d1c; --quiet: #767676; --special: #9333ea; }
@media (prefers-color-scheme: dark) {
  :root { --trained: #1d5c34; --ink: #d9fbe4; --quiet: #9a9a9a; --special: #c99bff; }
}
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; }
td { padding: 0 1.5rem 0 0; vertical-align: top; }
td:first-child { color: var(--quiet); }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
pre { margin: .5rem 0; padding: .75rem 1rem; border: 1px solid #8884; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.55 ui-monospace, monospace; }
pre.ids { color: var(--quiet); }
pre.table { white-space: pre; overflow-x: auto; }
.trained { background: var(--trained); color: var(--ink); }
.special { color: var(--special); }
.special.trained { color: var(--ink); font-weight: bold; }
.gap { color: var(--quiet); font-style: italic; }
i { opacity: .55; font-style: normal; }
.failed { border-left: 4px solid #d33; padding-left: 1rem; white-space: pre-wrap; }
"""


def page(
    facts: Sequence[tuple[str, str]], samples: Sequence[SampleView], tables: Sequence[Any], result: str, failure: object
) -> str:
    """:param tables: rich renderables and markup. :param failure: printed in place of ``result``, if any."""
    legend = f'<span class="trained">green</span> is what is trained; {html.escape(LEGEND)}'
    body = ["<table>"]
    body += [f"<tr><td>{name}<td>{html.escape(value)}</tr>" for name, value in facts]
    body += [f"<tr><td>reading<td>{legend}</tr>", "</table>"]
    for sample in samples:
        body.append(f"<h2>{html.escape(sample.title)}</h2>")
        body += [f'<p class="gap">{html.escape(sample.left_out)}</p>'] if sample.left_out else []
        body.append(f"<pre>{_keep_first_break(as_html(sample.text))}</pre>")
        body.append(f'<pre class="ids">{as_html(sample.ids, " ")}</pre>')
    if tables:
        body.append(f'<h2>ledger</h2><pre class="table">{html.escape(_render(tables))}</pre>')
    told = html.escape(str(failure if failure is not None else result))
    body.append(f'<p class="{"failed" if failure is not None else "said"}">{told}</p>')
    title = html.escape(f"ftlab inspect: {facts[0][1]}" if facts else "ftlab inspect")
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>ftlab inspect</h1>",
        *body,
        "</body>\n</html>\n",
    ])  # fmt: skip


def _keep_first_break(text: str) -> str:
    """HTML drops a line break that a ``pre`` begins with."""
    return f"\n{text}" if text.startswith("\n") else text


def _render(lines: Sequence[Any]) -> str:
    file = io.StringIO()
    to = Terminal(file=file, width=_WIDTH, color_system=None, highlight=False, emoji=False)
    for line in lines:
        to.print(line, soft_wrap=isinstance(line, str))
    return file.getvalue()
