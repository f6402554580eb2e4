"""What a crash, a disk or a hand does to a file."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes | str]
# What is in the file's place.
GONE, FOLDER, LINK, LOOP, PIPE, SOCKET = "gone", "folder", "link", "loop", "pipe", "socket"


def _flipped(place: float, bit: int) -> Damage:
    def flip(content: bytes) -> bytes:
        if not content:
            return b"\1"
        at = min(int(place * len(content)), len(content) - 1)
        return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

    return flip


def _cut(share: float) -> Damage:
    return lambda content: content[: int(share * len(content))]


def _other_value(value: object) -> Damage:
    """Another type of JSON in place of the whole, or of one of an object's values."""

    def replace(content: bytes) -> bytes:
        try:
            whole = json.loads(content)
        except (ValueError, RecursionError):
            return json.dumps(value).encode()
        if isinstance(whole, dict) and whole:
            key = sorted(whole)[len(repr(value)) % len(whole)]
            whole[key] = value
            return json.dumps(whole).encode()
        return json.dumps(value).encode()

    return replace


def _other_nested_value(at: int, value: object) -> Damage:
    """Another type in place of one value, however deep it lies, of a JSON document or of one of its lines."""

    def replace(content: bytes) -> bytes:
        lines = content.splitlines(keepends=True)
        number = at % len(lines) if lines else 0
        try:
            whole, before, after = json.loads(content), b"", b""
        except (ValueError, RecursionError):
            try:
                whole = json.loads(lines[number])
            except (ValueError, IndexError, RecursionError):
                return json.dumps(value).encode()
            before, after = b"".join(lines[:number]), b"\n" + b"".join(lines[number + 1 :])
        places = list(_places(whole))
        if not places:
            return json.dumps(value).encode()
        holder, key = places[at % len(places)]
        holder[key] = value
        return before + json.dumps(whole).encode() + after

    return replace


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within a document: what holds it, and under which key."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(inside):
        yield values, key
        yield from _places(value)


_VALUES = st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.text(max_size=4) | st.just([]) | st.just({})
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    st.builds(_flipped, st.floats(0, 1), st.integers(0, 7)),
    st.builds(_cut, st.floats(0, 0.99)),
    st.binary(max_size=40).map(lambda garbage: lambda _: garbage),
    _VALUES.map(_other_value),
    _VALUES.map(lambda value: lambda _: json.dumps(value).encode()),
    st.builds(_other_nested_value, st.integers(0, 1 << 12), _VALUES),
    st.sampled_from((1_000, 100_000)).map(lambda depth: lambda _: b"[" * depth + b"\n"),
    st.sampled_from((GONE, FOLDER, LINK, LOOP, PIPE, SOCKET)).map(lambda kind: lambda _: kind),
)


def damaged(path: Path, damage: Damage) -> None:
    """Put something else in the place of a file or folder; never into the file itself, which may be mapped."""
    content = path.read_bytes() if path.is_file() else b""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    found = damage(content)
    if isinstance(found, bytes):
        path.write_bytes(found)
    elif found == FOLDER:
        path.mkdir()
    elif found in (LINK, LOOP):
        path.symlink_to(path if found == LOOP else path.with_name("nowhere"))
    elif found in (PIPE, SOCKET):  # made as a node: the path of a bound socket may have 100 characters
        os.mknod(path, 0o600 | (stat.S_IFIFO if found == PIPE else stat.S_IFSOCK))
