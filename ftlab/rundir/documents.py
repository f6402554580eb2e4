"""JSON and YAML that a run has written and that somebody may have damaged: read, or told in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ftlab.errors import RunDirError

# The C parser where PyYAML has it: listing hundreds of runs is mostly reading their run.yaml.
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAIL = 1 << 16  # bytes that hold the last line of a file
_WITHOUT_LINE = "Put a copy back, or remove the line."


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
    """What a YAML document holds. :raises yaml.YAMLError: it is none."""
    return yaml.load(text, _YAML_LOADER)


def _read(path: Path, parse: Callable[[str], Any], language: str, kind: str, remedy: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise RunDirError(f"{path} is empty. {remedy}")
        found = parse(text)
    except OSError as error:
        raise _unreadable(path, error, remedy) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # also bytes that are no text
        raise RunDirError(f"{path} is no {language}: {str(error).splitlines()[0]}. {remedy}") from None
    if not isinstance(found, dict):
        raise RunDirError(f"{path} is no {kind}. {remedy}")
    return found


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON object of every line; what a crash left of a last one is passed over.

    :raises RunDirError: the file cannot be read, or a whole line is no JSON object.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                found = _parsed(line)
                if found is not None:
                    yield found
                elif line.endswith("\n"):
                    raise RunDirError(f"{path}:{number} is no JSON object: {line[:60].rstrip()}. {_WITHOUT_LINE}")
    except OSError as error:
        raise _unreadable(path, error, _WITHOUT_LINE) from None


def last_json_line(path: Path) -> dict[str, Any] | None:
    """The JSON object of the last whole line, without reading what is before; None where there is no line.

    :raises RunDirError: the file cannot be read, or that line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
    except OSError as error:
        raise _unreadable(path, error, _WITHOUT_LINE) from None
    found = _parsed(last) if last else None
    if last and found is None:
        start = last[:60].decode(errors="replace")
        raise RunDirError(f"{path}: its last line is no JSON object: {start}. {_WITHOUT_LINE}")
    return found


def _parsed(line: str | bytes) -> dict[str, Any] | None:
    """None where it is no JSON object."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _unreadable(path: Path, error: OSError, remedy: str) -> RunDirError:
    if isinstance(error, RunDirError):  # which is one, and says more
        return error
    return RunDirError(f"{path} cannot be read: {error.strerror}. {remedy}")
