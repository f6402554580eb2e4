"""Names of modules as a user gives them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ftlab.errors import Mistake, nearest

NO_SUCH_LAYER = "the model has no such linear layer or embedding. Its linear layers"


def matches_name(path: str, name: str) -> bool:
    """Whether ``name`` is the end of a module's path: ``q_proj`` and ``self_attn.q_proj``, but not ``proj``."""
    return path == name or path.endswith(f".{name}")


def last_names(paths: Iterable[str]) -> list[str]:
    """Return the names of modules in their parents, without the indices of lists."""
    return sorted({name for name in (path.rpartition(".")[2] for path in paths) if name and not name.isdigit()})


def unknown_module_mistakes(
    key: str, names: Sequence[str], paths: Iterable[str], reason: str, listed: Sequence[str]
) -> list[Mistake]:
    """Return a mistake for each of the names that no path ends with.

    :param reason: what such a name is not. :param listed: what a user could have meant.
    """
    paths = list(paths)
    return [
        Mistake(key, f"{reason}: {', '.join(listed)}.", name, nearest(name, listed))
        for name in names
        if not any(matches_name(path, name) for path in paths)
    ]
