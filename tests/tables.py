"""The tables of the docs that are measured: read back, and put in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_table(document: Path, title: str) -> tuple[list[str], list[list[str]]]:
    """The first row of the table whose first column has this title, and the rows below it, as cells."""
    lines = document.read_text(encoding="utf-8").splitlines()
    header, end = _place(lines, title)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in (lines[header], *lines[header + 2 : end])
    ]
    return cells[0], cells[1:]


def write_table(document: Path, title: str, rows: Sequence[Sequence[str]]) -> None:
    """Put rows in place of those below the table's first."""
    lines = document.read_text(encoding="utf-8").splitlines()
    header, end = _place(lines, title)
    lines[header + 2 : end] = map(line_of, rows)
    document.write_text("\n".join(lines) + "\n", encoding="utf-8")


def line_of(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _place(lines: Sequence[str], title: str) -> tuple[int, int]:
    """Of its header, and of the first line behind it."""
    header = next(at for at, line in enumerate(lines) if line.startswith(f"| {title} |"))
    end = next((at for at in range(header, len(lines)) if not lines[at].startswith("|")), len(lines))
    return header, end
