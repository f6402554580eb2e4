"""Every command that prints a table has it as JSON, too; docs/SKILL.md lists them."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
NO_TABLE = {"train", "resume", "reproduce", "report", "serve", "version"}


def test_tasks_without_format_print_no_table():
    files = (ROOT / "conf" / "task").glob("*.yaml")
    tasks = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    assert {name for name, keys in tasks.items() if "format" not in keys} == NO_TABLE


def test_the_guide_lists_the_others():
    text = (ROOT / "docs" / "SKILL.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (`.*?) \|", text)
    listed = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    tasks = {file.stem for file in (ROOT / "conf" / "task").glob("*.yaml")}
    assert tasks - NO_TABLE - {"chat"} <= listed  # what is chatted is no table
