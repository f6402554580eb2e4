"""What other tools call a key that has another name here: on the command line, and in files that are imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftlab.config.foreign_names.lines import Absent, Answer, Line, NotNeeded, UnknownValueError, answer, parts
from ftlab.config.foreign_names.llamafactory import LLAMA_FACTORY
from ftlab.config.foreign_names.others import AXOLOTL, LAUNCHERS, MS_SWIFT
from ftlab.config.foreign_names.transformers import TRANSFORMERS
from ftlab.config.foreign_names.trl import TRL
from ftlab.errors import nearest

# Each tool's own names; LLaMA-Factory and TRL have those of transformers, too.
TOOLS: Mapping[str, Mapping[str, Line]] = {
    "LLaMA-Factory": {**TRANSFORMERS, **LLAMA_FACTORY},
    "TRL": {**TRANSFORMERS, **TRL},
    "axolotl": AXOLOTL,
    "ms-swift": MS_SWIFT,
    "launchers": LAUNCHERS,
}
# Where two tools mean different things by a name, the one that more people come from.
_ANY: Mapping[str, Line] = {name: line for tool in [*TOOLS.values()][::-1] for name, line in tool.items()}


def keys() -> set[str]:
    """Every key, group and choice that a line names, as ``key`` or ``key=value``."""
    return {line for tool in TOOLS.values() for found in tool.values() for line in _lines(found)}


def _lines(line: Line) -> Iterable[str]:
    if callable(line) and not isinstance(line, str):
        return []
    answers = line.values() if isinstance(line, Mapping) else [line]
    given = [one[0] if isinstance(one, tuple) else one for one in answers]
    return [part for one in given if not isinstance(one, NotNeeded | Absent) for part in parts(one)]


def lookup(tool: str, name: str, value: Any) -> Answer | None:
    """What becomes of a tool's key here; None where the tool knows no such name.

    :raises UnknownValueError: the tool knows no such value.
    """
    line = TOOLS[tool].get(name)
    return None if line is None else answer(line, value)


def near(tool: str, name: str) -> list[str]:
    """The tool's names that look like one that it does not know."""
    return nearest(name, TOOLS[tool])


def translation(name: str, value: str | None) -> str | None:
    """What to give here for another tool's key; a sentence where no key takes its place; None for an unknown name.

    :param name: without dashes at its front; of a dotted one the last part counts. :param value: as it was given.
    """
    name = name.replace("-", "_").lower()
    bare = name.rpartition(".")[2]
    line = _ANY.get(bare)
    if line is None or _is_own(line, name):
        return None
    try:
        found = answer(line, value or None)
    except UnknownValueError as error:
        return f"{bare} {str(error).removesuffix('.')} there"
    if isinstance(found, NotNeeded | Absent):
        return str(found)
    template, note = found if isinstance(found, tuple) else (found, "")
    given = "VALUE" if value in (None, "") else str(value)
    given = given.strip("[]") if "[{}]" in template else given
    return f"that is {template.format(given)} here{f' ({note})' if note else ''}"


def _is_own(line: Line, name: str) -> bool:
    """Whether a key here has that name, as it was given: what is near it is told by whoever knows the keys."""
    if not isinstance(line, str) or isinstance(line, NotNeeded | Absent) or not line.endswith("={}"):
        return False
    key = line.removesuffix("={}")
    return key == name or ("." in key and key.rpartition(".")[2] == name.rpartition(".")[2])
