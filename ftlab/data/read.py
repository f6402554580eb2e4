"""Rows of a file, each with its number, whatever is wrong with it kept beside it."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import DataError

SUFFIXES = (".json", ".jsonl")
_HALF = rb"\ud"  # how JSON escapes half of a surrogate pair


@dataclass(frozen=True, slots=True)
class Row:
    """:param number: the line of a JSON Lines file, or the place in a JSON list, from 1. :param problem: if any."""

    number: int
    value: Any
    problem: str | None = None


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a JSON list or a JSON Lines file; blank lines are no rows.

    :raises DataError: a file of another kind, or one that is not JSON as a whole.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: files ending in {' or '.join(SUFFIXES)} can be read, not {path.suffix or 'this'}.")
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if path.suffix == ".json" and content.lstrip()[:1] != b"{":
        yield from _rows_of_list(path, content)
        return
    yield from _rows_of_lines(path, content)


def _rows_of_list(path: Path, content: bytes) -> Iterator[Row]:
    try:
        rows = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "It must be a JSON list of rows, or JSON Lines in a file ending in .jsonl."
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {_beyond_python(error)}.") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: must hold a list of rows, not a {type(rows).__name__}.")
    if not rows:
        raise DataError(f"{path}: the list has no rows.")
    may_be_half = _HALF in content.lower()
    for number, value in enumerate(rows, 1):
        yield Row(number, value, _problem(value, may_be_half))


def _rows_of_lines(path: Path, content: bytes) -> Iterator[Row]:
    seen = good = 0
    first_problem = None
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        seen += 1
        problem: str | None
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 at byte {error.start} of the line"
        except json.JSONDecodeError as error:
            comma = " (JSON Lines has no comma between rows)" if line.rstrip().endswith(b",") else ""
            problem = f"not JSON: {error.msg} in column {error.colno}{comma}"
        except (ValueError, RecursionError) as error:
            problem = f"not JSON: {_beyond_python(error)}"
        else:
            problem = _problem(value, _HALF in line.lower())
        if problem is None:
            good += 1
            yield Row(number, value)
        else:
            first_problem = first_problem or f"line {number}: {problem}"
            yield Row(number, None, problem)
    if seen == 0:
        raise DataError(f"{path}: has no rows.")
    if good == 0:
        raise DataError(f"{path}: no line is a JSON object ({first_problem}). Is it JSON Lines?")


def _problem(value: Any, may_be_half: bool) -> str | None:
    """:param may_be_half: whether the source has an escape that could be half of a surrogate pair."""
    if not isinstance(value, dict):
        return "is not an object with columns"
    if may_be_half:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:  # JSON can write it, UTF-8 and tokenizers cannot
            return "holds half of a surrogate pair, which no text can"
    return None


def _beyond_python(error: Exception) -> str:
    """Limits of Python's reader that are no errors of JSON."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
