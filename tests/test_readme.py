"""Every ftlab command of the README, the docs and the help is one that the config accepts."""

from __future__ import annotations

import re
from pathlib import Path

from ftlab.use.help import TRY

ROOT = Path(__file__).resolve().parents[1]
COMMAND = re.compile(r"^    (?:python -m )?ftlab\b(?!\.)([^#\n]*)", re.MULTILINE)


def commands() -> list[str]:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = [match.strip() for page in pages for match in COMMAND.findall(page.read_text(encoding="utf-8"))]
    return sorted({*found, *(command.removeprefix("ftlab").strip() for command, _ in TRY)})


def test_the_readme_shows_commands():
    assert len(commands()) > 10


def test_every_command_is_accepted(tmp_path, monkeypatch, mistakes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 3\n")
    # A model's folder is looked into: one that is there stands for the examples'.
    told = {
        command: mistakes(command.replace("/models/anything", str(ROOT / "models" / "tiny"))) for command in commands()
    }
    assert {command: wrong for command, wrong in told.items() if wrong} == {}
