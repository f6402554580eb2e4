"""Values as Hydra's grammar reads them on a command line, and as a shell hands them over."""

from __future__ import annotations

import glob
import os
import re
import shlex

_PLAIN = re.compile(r"^[\w./@%+-]+$", re.ASCII)
# What Hydra takes for no string: a folder may be called 2024, but data.path=null is no file.
_NUMBER = re.compile(
    r"^[+-]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(e[+-]?\d+)?$|^[+-]?(inf|nan)$|^(true|false)$", re.IGNORECASE
)
_PATHS = re.compile(
    r"\+{0,2}(?:phases\.[^.=]+\.)?(?:data\.(?:path|registry|cache|split\.(?:validation|test|golden))|stage\.reward_model"
    r"|model\.(?:path|adapter)|run\.dir|hydra\.(?:run|sweep)\.dir"
    r"|(?:[a-z]+\.)?(?:file|folder|first|second|repo|out|html))"  # a task's own
)


def quote(word: str) -> str:
    """A word as the value of an override."""
    return word if _PLAIN.match(word) else _in_quotes(word)


def text(word: str) -> str:
    """The same of a word that is a string whatever it looks like: a number, an interpolation."""
    if _PLAIN.match(word) and not _NUMBER.match(word):
        return word
    return _in_quotes(re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", word))


def shell_word(key: str, value: str) -> str:
    """An override with a string for its value, as it is typed in a shell."""
    word = f"{key}={_in_quotes(value)}"
    return shlex.quote(word) if re.search(r'[$`"\\!]', word) else f'"{word}"'


def is_path_key(key: str) -> bool:
    return _PATHS.fullmatch(key) is not None


def path_override(override: str) -> str:
    """An override as it is, or with its value in quotes, where that is a path: one that is there, or one that Hydra's
    grammar has no place for, as it has none for ``=``, brackets, quotes and letters that are not ASCII.

    >>> path_override("data.path=my=file (1).jsonl")
    "data.path='my=file (1).jsonl'"
    """
    key, separator, value = override.partition("=")
    if not separator or not is_path_key(key) or (_PLAIN.match(value) and not _NUMBER.match(value)):
        return override
    if _is_there(value):
        return f"{key}={text(value)}"
    if _is_hydra(override):
        return override
    parts = value.split(",")
    return f"{key}={','.join(map(text, parts)) if all(map(_is_there, parts)) else text(value)}"


def _is_there(value: str) -> bool:
    path = os.path.expanduser(value.removeprefix("hf://"))  # noqa: PTH111 (Path raises where ~ names nobody)
    return os.path.lexists(path) or (glob.has_magic(path) and bool(glob.glob(path)))  # noqa: PTH207 (any path)


def _is_hydra(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # not on the way to --help
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _in_quotes(word: str) -> str:
    # In Hydra's grammar a backslash escapes only in a row of them that ends at a quote, or at the end.
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + (end[2] and "\\'"), word) + "'"
