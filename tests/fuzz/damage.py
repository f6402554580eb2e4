"""What a crash, a disk or a hand does to a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

Damage = Callable[[bytes], bytes | str]
GONE, FOLDER, LINK, LOOP = "gone", "folder", "link", "loop"  # what is in the file's place


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
        except ValueError:
            return json.dumps(value).encode()
        if isinstance(whole, dict) and whole:
            key = sorted(whole)[len(repr(value)) % len(whole)]
            whole[key] = value
            return json.dumps(whole).encode()
        return json.dumps(value).encode()

    return replace


_VALUES = st.none() | st.booleans() | st.integers(-3, 1 << 40) | st.text(max_size=4) | st.just([]) | st.just({})
DAMAGES: st.SearchStrategy[Damage] = st.one_of(
    st.builds(_flipped, st.floats(0, 1), st.integers(0, 7)),
    st.builds(_cut, st.floats(0, 0.99)),
    st.binary(max_size=40).map(lambda garbage: lambda _: garbage),
    _VALUES.map(_other_value),
    _VALUES.map(lambda value: lambda _: json.dumps(value).encode()),
    st.sampled_from((GONE, FOLDER, LINK, LOOP)).map(lambda kind: lambda _: kind),
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
