"""Functions of a user's Python file, as ``path.py:function``: whether they are there, and the functions themselves."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any

from ftlab.errors import nearest


def find_function(
    path: Path, name: str, load: Callable[[Path], ModuleType] | None
) -> Callable[..., Any] | tuple[str, Sequence[str]]:
    """The function of a file, or why there is none and which are near.

    :param load: runs the file; None where it is not to be run: what comes then is a stand-in.
    """
    if not path.is_file():
        return f"there is no file {path.resolve()}.", ()
    try:
        own = _names(path)
    except (SyntaxError, ValueError) as error:
        return f"{path} is no Python: {error}.", ()
    if own is not None and name not in own:
        known = sorted(word for word in own if not word.startswith("_"))
        return f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}.", nearest(name, known)
    if load is None:
        return len
    try:
        function = getattr(load(path), name)
    except (Exception, SystemExit) as error:
        return f"{path} cannot be run: {describe_error(error)}.", ()
    if not callable(function):
        return f"{name} in {path} is a {type(function).__name__}, not a function.", ()
    if inspect.iscoroutinefunction(function):
        return f"{name} in {path} is asynchronous; write it with a plain def.", ()
    return function


def _names(path: Path) -> set[str] | None:
    """Every name that a file may bind, without running it; None if only running it can tell."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
    return None if found & {"*", "__getattr__"} else found


def load_file(files: dict[Path, ModuleType], kind: str, path: Path) -> ModuleType:
    """Run a file as a module; what lies beside it can be imported while it does.

    :param files: those that were run already. :param kind: what it is for, in the module's name.
    """
    path = path.resolve()
    if path not in files:
        name = f"ftlab_{kind}_{path.stem}_{blake2b(str(path).encode(), digest_size=4).hexdigest()}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        files[path] = module
    return files[path]


def arguments(function: Callable[..., Any], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the columns a function takes, all of them unless it lists those that it wants; and what it asks for
    beside them."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some built-in functions nobody knows
        return [*known], []
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    nameless = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    lacking = [p.name for p in (*named, *nameless) if p.default is p.empty and (p in nameless or p.name not in known)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return [*known], lacking
    return [p.name for p in named if p.name in known], lacking


def shorten(value: Any, limit: int = 80) -> str:
    """A value as an error shows it: of a conversation the last message, and not all of a long one."""
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content", value)
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def describe_error(error: BaseException) -> str:
    """Return what went wrong, and the last line of code that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
