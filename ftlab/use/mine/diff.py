"""A diff of git, file by file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
# git cuts the line that it shows behind a hunk's numbers: perhaps within a letter, or within a secret.
_WHOLE_CONTEXT = 78


@dataclass(slots=True)
class Section:
    """What a diff says of one file.

    :param path: the newer one. :param old: the older one of a rename. :param mode: the newest that is said, or "".
    :param size: bytes; ``text`` ends where it was beyond the limit, which loses nothing that is used.
    :param longest: bytes of its longest line.
    """

    path: bytes = b""
    old: bytes | None = None
    mode: str = ""
    is_binary: bool = False
    size: int = 0
    longest: int = 0
    lines: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        return b"".join(self.lines)


def sections(lines: Iterable[bytes], limit: int) -> Iterator[Section]:
    """:param limit: bytes of a section to keep. Names of blobs are left out: they say nothing, and are long."""
    one: Section | None = None
    in_head = False
    for line in lines:
        if line.startswith(b"diff --git "):
            if one is not None:
                yield one
            one, in_head = Section(path=_header_path(line)), True
        if one is None:
            continue
        if line.startswith(b"@@ "):
            in_head = False
            line = _numbers(line)
        elif in_head:
            _read(one, line)
            if line.startswith(b"index "):
                continue
        else:
            one.longest = max(one.longest, len(line) - 2)  # of the mark and the end of the line
        one.size += len(line)
        if one.size <= limit:
            one.lines.append(line)
            one.is_binary |= not in_head and b"\0" in line
    if one is not None:
        yield one


def _read(one: Section, line: bytes) -> None:
    """A line above the first hunk."""
    word, _, value = line.rstrip(b"\n").partition(b" ")
    if word == b"index":
        one.mode = value.partition(b" ")[2].decode() or one.mode
    elif word == b"Binary":
        one.is_binary = True
    elif mode := re.fullmatch(rb"(?:new|deleted file|new file) mode (\d+)", line.rstrip(b"\n")):
        one.mode = mode[1].decode()
    elif word == b"rename" and value.startswith(b"to "):
        one.path = _unquote(value[3:])
    elif word == b"rename":
        one.old = _unquote(value.removeprefix(b"from "))
    elif word in (b"---", b"+++") and (name := _unquote(value.removesuffix(b"\t"))) != b"/dev/null":
        one.path = name[2:]


def _header_path(line: bytes) -> bytes:
    """The path of ``diff --git a/PATH b/PATH``; where the two differ, other lines tell."""
    names = line[len(b"diff --git ") : -1]
    half = names[len(names) // 2 + 1 :]
    return _unquote(half)[2:]


def _unquote(name: bytes) -> bytes:
    if not name.startswith(b'"'):
        return name
    return _ESCAPED.sub(lambda found: _letter(found[1]), name[1:-1])


def _letter(escape: bytes) -> bytes:
    return bytes([int(escape, 8)]) if len(escape) == 3 else _ESCAPES.get(escape, escape)


def _numbers(line: bytes) -> bytes:
    head, mark, context = line.partition(b" @@")
    return head + mark + (context if len(context) < _WHOLE_CONTEXT else b"\n")
