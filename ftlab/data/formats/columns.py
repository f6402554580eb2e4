"""The columns of one row under the names that its format knows them by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ftlab.data.formats.records import RowError, is_blank, shorten_value

_NO_TAGS: Mapping[str, str] = {}
_MOST_NAMED = 12  # columns that a reason lists
_MOST_BITS = 10_000
LACKS_COLUMNS = ("has no column", "needs ")  # how :meth:`Columns.missing_columns` begins
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
_MEDIA_NAMES = frozenset(_MEDIA)


class Columns:
    """:param names: the user's column by the format's; None where the data has none. A null value is no value.
    :param tags: the user's words in lists of messages, by :data:`ftlab.data.formats.TAGS`.
    :param merges: whether turns of one side in a row are joined (``data.on_same_role=merge``)."""

    __slots__ = ("_names", "_row", "merges", "tags")

    def __init__(
        self,
        row: Mapping[str, Any],
        names: Mapping[str, str | None],
        tags: Mapping[str, str] = _NO_TAGS,
        merges: bool = False,
    ):
        if type(row) is not dict and not isinstance(row, Mapping):
            raise RowError("is not an object with columns")
        self._row, self._names, self.tags, self.merges = row, names, tags, merges
        for media in _MEDIA if not _MEDIA_NAMES.isdisjoint(row) else ():
            if isinstance(row.get(media), list | str | dict) and row[media]:
                raise RowError(f"has {media}, and only text is trained; remove that column and its placeholders")

    @property
    def id(self) -> str | None:
        """The row's identifier, where it has a string or a whole number for it."""
        value = self.get("id")
        if isinstance(value, str):
            return value or None
        if type(value) is not int:
            return None
        return str(value) if value.bit_length() < _MOST_BITS else hex(value)  # Python writes no longer one

    def name(self, column: str) -> str:
        """The user's name of a column."""
        return self._names.get(column) or column

    def get(self, column: str) -> Any:
        name = self._names.get(column, column)
        return None if name is None else self._row.get(name)

    def first(self, columns: Iterable[str]) -> str | None:
        """The first of the columns that the row has."""
        for column in columns:
            if self.get(column) is not None:
                return column
        return None

    def text(self, column: str, may_be_blank: bool = False) -> str:
        """A string column that must be there."""
        if self.get(column) is None:
            raise self.missing_columns(((column,),))
        value = self.optional(column)
        if is_blank(value) and not may_be_blank:
            raise RowError(f"column {self.name(column)!r} is empty")
        return value

    def optional(self, column: str) -> str:
        """A string column; empty where it is missing."""
        value = self.get(column)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise RowError(f"column {self.name(column)!r} must be a string, not {type(value).__name__}")
        return value

    def tools(self) -> list[Any] | None:
        """The column of that name: a list of objects, or JSON of one. A bare function becomes a tool of that type, as
        OpenAI's API has it, and as chat templates expect it."""
        value = self.get("tools")
        if isinstance(value, str):
            value = None if is_blank(value) else parse_json(value, f"column {self.name('tools')!r} is not JSON")
        if not value and (value is None or isinstance(value, str | list)):
            return None
        if not isinstance(value, list):
            raise RowError(f"column {self.name('tools')!r} must be a list of tools, or JSON of one")
        for number, tool in enumerate(value, 1):
            if not isinstance(tool, dict):
                raise RowError(f"tool {number} must be an object, not {type(tool).__name__}")
        return [{"type": "function", "function": tool} if _is_bare(tool) else tool for tool in value]

    def unread_columns(self, read: Iterable[str]) -> dict[str, Any]:
        """Return the columns that are not in ``read``, with their values."""
        names = {self._names.get(column, column) for column in read}
        return {name: value for name, value in self._row.items() if name not in names}

    def missing_columns(self, *ways: tuple[tuple[str, ...], ...]) -> RowError:
        """Return the error that lists every set of columns, with other spellings, none of which the row has."""
        named = [["|".join(map(repr, self._spellings(column))) for column in way] for way in ways]
        wanted = ", or ".join(" + ".join(way) for way in named if all(way)) or "columns that data.columns sets to null"
        only = ways[0][0] if len(ways) == len(ways[0]) == 1 else ()
        lacking = f"has no column {self.name(only[0])!r}" if len(only) == 1 else f"needs {wanted}"
        if len(only) == 1 and self._names.get(only[0], only[0]) in self._row:  # else data.columns leaves it out
            return RowError(f"column {self.name(only[0])!r} is null")
        has = [shorten_value(name) + " (null)" * (value is None) for name, value in self._row.items()]
        listed = ", ".join(has[:_MOST_NAMED]) + (", ..." if len(has) > _MOST_NAMED else "")
        return RowError(f"{lacking}; it has {listed or 'none'}")

    def _spellings(self, columns: tuple[str, ...]) -> list[str]:
        names = [self._names.get(column, column) for column in columns]
        return [name for name in names if name is not None]


def parse_json(text: str, otherwise: str) -> Any:
    """:raises RowError: ``otherwise``, and why."""
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise RowError(f"{otherwise}: {error.msg}") from None
    except UnicodeEncodeError:  # JSON can write it, UTF-8 and tokenizers cannot
        raise RowError(f"{otherwise}: half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:  # limits of Python's reader
        why = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        raise RowError(f"{otherwise}: {why}") from None
    return value


def _is_bare(tool: dict[str, Any]) -> bool:
    return isinstance(tool.get("name"), str) and "function" not in tool and "type" not in tool
