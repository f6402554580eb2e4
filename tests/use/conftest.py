"""What the tests of commands that print share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.config import command_line
from ftlab.config.compose import compose, validate
from ftlab.use.importing.command import import_file


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a cache of its own, and no terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTLAB_CACHE", str(tmp_path / "cache"))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def imported(capsys):
    """What ``ftlab import ... format=json`` says."""

    def run(*argv: str) -> dict:
        given = command_line.read(["import", *argv, "format=json"])
        import_file(validate(compose(given.overrides)), [*given.single_flags, *given.overrides])
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def composed(make_run):
    """The run of an experiment that a command has written below conf/."""
    return lambda name: make_run(f"experiment={name}", config_dir=Path("conf").absolute())
