"""Where the shipped folders are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
REPEATED = "..."  # ends the last of a task's bare words, where there may be several of it


def shipped(relative: str) -> str:
    """Absolute path of a shipped file or folder, e.g. ``models/tiny`` (the ``${shipped:...}`` resolver)."""
    inside = _PACKAGE / relative
    return str(inside if inside.exists() else _PACKAGE.parent / relative)


def config_dir() -> Path:
    return Path(shipped("conf"))


def task_names() -> list[str]:
    return sorted(path.stem for path in (config_dir() / "task").glob("*.yaml"))


def group_names() -> list[str]:
    """The groups of a run; those of Hydra itself are not among them."""
    return sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra")


def only_with(path: str, expected: str, value: str) -> str | None:
    """``${only_with:...}`` in a YAML: ``value`` where ``path`` is still ``expected``, else null."""
    same = path == expected or (isinstance(path, str) and Path(path).resolve() == Path(expected).resolve())
    return value if same else None
