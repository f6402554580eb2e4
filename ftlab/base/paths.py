"""Paths as they are told."""

from __future__ import annotations

from pathlib import Path


def shown_path(path: Path) -> Path:
    """As a user here would type it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
