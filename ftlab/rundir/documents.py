"""JSON and YAML that a run has written and that somebody may have damaged: read, or told in words."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from ftlab.errors import RunDirError

# The C parser where PyYAML has it: listing hundreds of runs is mostly reading their run.yaml, and explaining a key
# reading conf/.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NESTING = "[{-?:"  # without one of them no YAML collection begins within another
_HARMLESS = 10_000  # levels; with a stack of 8 MiB the C parser ends the process somewhere above 20,000
_TAIL = 1 << 16  # bytes that hold the last line of a file
_LAST_LINES = 1 << 17  # bytes from the end that hold the last hundreds of lines
WITHOUT_LINE = "Put a copy back, or remove the line."


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file.

    :param remedy: sentences that say what to do where it cannot be read.
    :raises RunDirError: it is not there, cannot be read, or is no JSON object.
    """
    return _read(path, json.loads, "JSON", "JSON object", remedy)


def read_yaml(path: Path, remedy: str) -> dict[str, Any]:
    """The YAML mapping in a file, as :func:`read_json` reads an object."""
    return _read(path, parse_yaml, "YAML", "YAML mapping", remedy)


def parse_yaml(text: str) -> Any:
    """What a YAML document holds.

    :raises yaml.YAMLError: it is none. :raises RecursionError: it is nested too deep: the C parser would not raise
        that, and end the process.
    """
    if sum(map(text.count, _NESTING)) > _HARMLESS and _depth(text) > _HARMLESS:
        raise RecursionError
    return yaml.load(text, YAML_LOADER)


def _depth(text: str) -> int:
    """Of the collections in a YAML document, by its events, which are read one after the other."""
    depth = deepest = 0
    for event in yaml.parse(text, YAML_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        deepest = max(deepest, depth)
        if deepest > _HARMLESS:
            break
    return deepest


# PyYAML ends in errors of many kinds on odd tags and numbers.
_NO_DOCUMENT = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, yaml.YAMLError, RecursionError)


def _read(path: Path, parse: Callable[[str], Any], language: str, kind: str, remedy: str) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
        if not text.strip():
            raise RunDirError(f"{path} is empty. {remedy}")
        values = parse(text)
    except OSError as error:
        raise _unreadable(path, error, remedy) from None
    except RecursionError:
        raise RunDirError(f"{path} is no {language}: it is nested too deep. {remedy}") from None
    except _NO_DOCUMENT as error:  # also bytes that are no text
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunDirError(f"{path} is no {language}: {reason}. {remedy}") from None
    if not isinstance(values, dict):
        raise RunDirError(f"{path} is no {kind}. {remedy}")
    return values


def is_there(path: Path) -> bool:
    """Whether there is something of this name, be it only a link that leads nowhere: that is told, not overlooked."""
    return os.path.lexists(path)


def is_folder(path: Path) -> bool:
    """Whether there is a folder, and not only a link to one."""
    return path.is_dir() and not path.is_symlink()


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. A pipe or a device would be waited for.

    :raises OSError: it is something else than a file, or cannot be read.
    """
    # The flag lets a pipe be opened without anybody at its other end; a file is read as ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise RunDirError(f"{path} is {kind_of(mode)}, where a run has a file. Move it away, or put a copy back.")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def kind_of(mode: int) -> str:
    """What something is, from its ``st_mode``."""
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISLNK(mode):
        return "a link"
    if stat.S_ISREG(mode):
        return "a file"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the JSON object of every line; what a crash left of a last one is passed over.

    :raises RunDirError: the file cannot be read, or a whole line is no JSON object.
    """
    for number, line in text_lines(path):
        values = parse_line(line)
        if values is not None:
            yield number, values
        elif line.endswith("\n"):
            raise RunDirError(f"{path}:{number} is no JSON object: {line[:60].rstrip()}. {WITHOUT_LINE}")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number and the text of every line, with its end. :raises RunDirError: the file cannot be read."""
    try:
        with open_regular(path) as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8", errors="replace")
    except OSError as error:
        raise _unreadable(path, error, WITHOUT_LINE) from None


def last_json_line(path: Path) -> dict[str, Any] | None:
    """The JSON object of the last whole line, without reading what is before; None where there is no line.

    :raises RunDirError: the file cannot be read, or that line is no JSON object.
    """
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
    except OSError as error:
        raise _unreadable(path, error, WITHOUT_LINE) from None
    values = parse_line(last) if last else None
    if last and values is None:
        start = last[:60].decode(errors="replace")
        raise RunDirError(f"{path}: its last line is no JSON object: {start}. {WITHOUT_LINE}")
    return values


def last_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of the last lines, the newest first, as far as 128 KiB reach back. What is no
    JSON object is passed over. :raises RunDirError: the file cannot be read."""
    try:
        with open_regular(path) as file:
            begins = max(0, os.fstat(file.fileno()).st_size - _LAST_LINES)
            file.seek(begins)
            lines = file.read().split(b"\n")[1 if begins else 0 : -1]
    except OSError as error:
        raise _unreadable(path, error, WITHOUT_LINE) from None
    yield from (values for line in reversed(lines) if (values := parse_line(line)) is not None)


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None where it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _unreadable(path: Path, error: OSError, remedy: str) -> RunDirError:
    if isinstance(error, RunDirError):  # which is one, and says more
        return error
    reason = "it is a link that leads nowhere" if path.is_symlink() and not path.exists() else error.strerror
    return RunDirError(f"{path} cannot be read: {reason}. {remedy}")
