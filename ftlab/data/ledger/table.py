"""A ledger as a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from ftlab.data.ledger.ledger import Ledger, SplitLedger
from ftlab.data.tokens.left_out import KINDS

_COLUMNS = ("split", "rows", "kept", "dropped", "cut", "tokens", "trained", "packed", "fill")
_WIDTH = 40  # characters of the longest bar


def ledger_lines(ledger: Ledger, cached: bool, damaged: str | None) -> Iterator[Any]:
    """A table of every split, then what is worth a line of its own: rich renderables and markup.

    :param cached, damaged: as in :class:`ftlab.data.prepare.Prepared`.
    """
    again = "  [dim](prepared before; nothing has changed)[/dim]" if cached else ""
    table = Table(title=f"data: {escape(ledger.source)}{again}", title_justify="left", box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in ledger.splits.items():
        counts = (split.rows_in, split.rows_kept, split.rows_dropped, split.rows_truncated, split.tokens_in,
                  split.tokens_trained, split.packed_rows)  # fmt: skip
        table.add_row(name, *(f"{count:,}" for count in counts), f"{split.fill:.1%}")
    yield table
    if damaged is not None:
        yield f"[yellow]{escape(damaged)} of the data cache was damaged: prepared anew[/yellow]"
    for name, split in ledger.splits.items():
        for reason, count in split.dropped.items():
            where = f", first {split.named[reason][0]}" if split.named[reason] else ""
            yield f"[yellow]{name}: {count:,} rows dropped: {escape(reason)}{escape(where)}[/yellow]"
        if split.tokens_cut:
            yield f"[yellow]{name}: {split.tokens_cut:,} of the tokens are cut, with their rows or from them[/yellow]"
        if split.needed:
            most, all_ = split.needed["most"], split.needed["all"]
            both = f"99 % of its rows whole, {all_:,} all of them" if most < all_ else "all of its rows whole"
            yield f"{name}: data.max_length={most} would keep {both}"
        if split.duplicates:
            first = escape(split.duplicates_named[0])
            yield f"[yellow]{name}: {split.duplicates:,} rows say what an earlier one says, first {first}[/yellow]"
        if split.literals:
            first = escape(split.literals_named[0])
            yield (
                f"[yellow]{name}: {split.literals:,} rows spell special tokens out, first {first}: read as text "
                "(data.special_tokens=token reads them as the tokens)[/yellow]"
            )
        yield from (f"[yellow]{name}: {line}[/yellow]" for line in left_out_lines(split, f"{split.rows_kept:,} rows"))
        yield from _leaks(name, split)
        if split.rows_repeated:
            yield f"{name}: {split.rows_repeated:,} rows are used again, and their tokens counted again"


def left_out_lines(split: SplitLedger, of: str, name_row: Callable[[str], str] = str) -> Iterator[str]:
    """What the template does not write of a split's rows, and what to do, as markup.

    :param of: how to speak of them. :param name_row: of ``file:row`` what to call it.
    """
    for kind, found in split.left_out.items():
        first = escape(name_row(found["first"][0]))
        yield f"{found['rows']:,} of {of}: the template leaves out {kind}, first {first}. {escape(KINDS[kind])}"


def _leaks(name: str, split: SplitLedger) -> Iterator[str]:
    """What a split has in common with train. That training rows share prompts with held-out ones is told of golden
    alone: preferences and conversations do so by their nature."""
    shared = split.in_train or {"rows": 0, "prompts": 0}
    of = f"of {split.rows_kept:,} {name} rows"
    if shared["rows"]:
        first = escape(shared["first"][0])
        yield f"[bold yellow]{name}: {shared['rows']:,} {of} are also in train, first {first}[/bold yellow]"
    if shared["prompts"] and name == "golden":
        yield f"[yellow]{name}: the prompts of {shared['prompts']:,} {of} are in train, in other rows[/yellow]"


def lengths(split: SplitLedger) -> Iterator[str]:
    """Percentiles and a histogram of the tokens of a sample before it is cut, as lines of text."""
    if not split.histogram:
        return
    yield "  ".join(f"{share} {value:,}" for share, value in split.percentiles.items())
    most = max(count for _, _, count in split.histogram)
    gap = 0  # where a stretch without a sample begins: one line, or none before the first bar
    for start, end, count in split.histogram:
        if not count:
            continue
        if gap and start > gap:
            yield f"{gap:>7,} to {start - 1:>7,}  {0:>7,}"
        gap = end
        yield f"{start:>7,} to {end - 1:>7,}  {count:>7,}  {'█' * round(_WIDTH * count / most) or '▏'}"
