"""What the tests of commands that print share."""

from __future__ import annotations

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a cache of its own, and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTLAB_CACHE", str(tmp_path / "cache"))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
