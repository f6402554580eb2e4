"""A JSON list of rows, of any size: each row is parsed as it is reached, with no more than a piece of the text held."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ftlab.data.sources import rows
from ftlab.data.sources.reading import LARGEST_ROW, PIECE, Item, convert_advice, open_file, too_large
from ftlab.data.sources.rows import Broken
from ftlab.errors import DataError

_BLANK = re.compile(r"[ \t\n\r]*")
_ESCAPE = 16  # characters: no literal and no escape is longer, so an error before the last of them is one
_plain = json.JSONDecoder()


def json_list(path: Path) -> Iterator[Item]:
    """Each row of the list. What is wrong with a row that is JSON stands in its place.

    :raises DataError: the file is no JSON list, or ends within it; it has no rows; a row is larger than rows may be.
    """
    with open_file(path) as file:
        yield from list_items(path, file)


def list_items(path: Path, file: BinaryIO) -> Iterator[Item]:
    """The same of a file that is open. :param path: to name in messages."""
    text = _Text(path, file)
    if text.next_character() != "[":
        value, _ = text.value()
        raise DataError(f"{path}: must hold a list of rows, not a {type(value).__name__}.")
    text.at += 1
    if text.next_character() == "]":
        raise DataError(f"{path}: the list has no rows.")
    while True:
        text.row += 1
        yield text.row, *text.value()
        following = text.next_character()
        text.at += 1
        if following == "]":
            break
        if following != ",":
            text.refuse("Expecting ',' delimiter", text.at - 1)
        text.next_character()
    if text.next_character():
        text.refuse("Extra data", text.at)


class _Text:
    """The text of a file, as much of it as is needed at a time.

    :ivar at: the place of the next character in the piece that is held. :ivar row: the one that is being read, from 1.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._is_last = "", False
        self._bytes, self._lines, self._column = 0, 0, 0  # before what is held; of the file, and in its line
        self.at = self.row = 0

    def next_character(self) -> str:
        """Pass over white space and return what follows, where ``at`` then is; empty at the end of the file."""
        while True:
            blank = _BLANK.match(self._held, self.at)
            assert blank is not None
            self.at = blank.end()
            if self.at < len(self._held) or not self._read_on():
                return self._held[self.at : self.at + 1]

    def value(self) -> tuple[Any, int]:
        """The value that begins here, or what is wrong with it, and its length."""
        while True:
            try:
                value, end = _decode(self._held, self.at)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._held) - _ESCAPE
                if not is_cut or not self._read_on():
                    self.refuse(error.msg, error.pos)
                continue
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self._path}: not JSON: {rows.is_reader_limit(error)}.") from None
            if end == len(self._held) and self._read_on():
                continue  # a number may go on
            begin, self.at = self.at, end
            if self._held.find("\\u", begin, end) >= 0 and rows.may_be_unusable(self._held[begin:end].encode()):
                value = rows.check_usable(value)
            return value, end - begin

    def refuse(self, message: str, place: int) -> NoReturn:
        """:raises DataError: with the line and column of a place in what is held."""
        before = self._held[:place]
        line, column = self._lines + before.count("\n"), place - (before.rfind("\n") + 1)
        column += 0 if "\n" in before else self._column
        raise DataError(
            f"{self._path}: not JSON: {message} in line {line + 1}, column {column + 1}. "
            "It must be a JSON list of rows, or JSON Lines in a file ending in .jsonl."
        )

    def _read_on(self) -> bool:
        """Hold more of the file, and no longer what lies behind. False at its end.

        :raises DataError: it is not UTF-8; what is held would be larger than a row may be.
        """
        if self._is_last:
            return False
        passed, self._held, self.at = self._held[: self.at], self._held[self.at :], 0
        self._lines += passed.count("\n")
        self._column = len(passed) - (passed.rfind("\n") + 1) + (0 if "\n" in passed else self._column)
        del passed
        if len(self._held) > LARGEST_ROW:
            raise DataError(too_large(f"{self._path}, row {self.row}"))
        # As much again each time: a large row is parsed few times.
        piece = self._file.read(min(max(PIECE, len(self._held)), LARGEST_ROW + 1 - len(self._held)))
        self._is_last = not piece
        self._bytes += len(piece)
        try:
            self._held += self._decoder.decode(piece, final=self._is_last)
        except UnicodeDecodeError as error:
            place = self._bytes - len(error.object) + error.start
            advice = convert_advice(self._path, "LATIN1")
            raise DataError(f"{self._path}: not UTF-8 at byte {place}. {advice}") from None
        return True


def _decode(text: str, at: int) -> tuple[Any, int]:
    try:
        return rows.DECODER.raw_decode(text, at)
    except rows.RepeatedKey as error:
        return Broken(str(error)), _plain.raw_decode(text, at)[1]
