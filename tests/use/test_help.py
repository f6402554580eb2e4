"""``ftlab --help`` and ``ftlab TASK --help``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ftlab.errors import ConfigError
from ftlab.main import TASKS
from ftlab.use import help as help_

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("task", "hydra"))


@pytest.fixture
def general(capsys) -> str:
    help_.show(["--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_with_every_choice(group, general):
    """Under its own name, with the default starred, and no shared part (_base, _7b) among them."""
    block = re.search(rf"^  {group} +(.*(?:\n {{14}}.*)*)", general, re.MULTILINE).group(1)
    choices = block.split()
    files = sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))
    assert sorted(choice.rstrip("*") for choice in choices) == files
    root = yaml.safe_load((CONF / "config.yaml").read_text())
    default = next(entry[group] for entry in root["defaults"] if isinstance(entry, dict) and group in entry)
    assert [choice for choice in choices if choice.endswith("*")] == ([f"{default}*"] if default else [])


@pytest.mark.parametrize("task", TASKS)
def test_every_task_with_what_it_does(task, general):
    about = (CONF / "task" / f"{task}.yaml").read_text().splitlines()[0].removeprefix("# ")
    entry = re.search(rf"^  {task} +(.*(?:\n {{14}}.*)*)", general, re.MULTILINE).group(1)
    assert " ".join(entry.split()) == about


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_it_is_laid_out_for_the_width_of_the_terminal(columns, capsys, monkeypatch):
    """Nothing is broken a second time: every line begins where its list has its columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    help_.show(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(columns, 100)
    assert {len(line) - len(line.lstrip()) for line in lines if line} <= {0, 2, 6, 14}


def test_it_says_how_to_go_on(general):
    for piece in ("-m sweeps", "--cfg job", "--config-dir DIR", "--hydra-help", "ftlab data.path=my.json"):
        assert piece in general


@pytest.mark.parametrize("task", TASKS)
def test_the_help_of_a_task_shows_its_command(task, capsys):
    help_.show([task, "--help"])
    first, second, blank, *rest = capsys.readouterr().out.splitlines()
    about, command, *_ = (CONF / "task" / f"{task}.yaml").read_text().splitlines()
    assert first.startswith(f"ftlab {task}") and second == f"  {about.removeprefix('# ')}"
    assert blank == "" and rest[0] == f"  {command.removeprefix('# ')}"


def test_the_help_of_a_task_names_its_word_and_its_keys(capsys):
    help_.show(["explain", "-h"])
    text = capsys.readouterr().out
    assert text.startswith("ftlab explain <key>\n  Says what a key means and takes")
    assert re.search(r"Keys of its own\n  key: null +# the dotted key, or a group\n", text)
    help_.show(["--help", "env"])
    assert re.search(r"Keys of its own\n  format: text +# text \| json\n", capsys.readouterr().out)


def test_a_task_without_keys_has_no_empty_heading(capsys):
    help_.show(["version", "--help"])
    assert "Keys" not in capsys.readouterr().out


@pytest.mark.parametrize("line", ["explain lora.r --help", "help explain", "task=explain -h", "--help explain"])
def test_the_help_of_a_task_however_it_is_asked_for(line, capsys):
    help_.show(line.split())
    assert capsys.readouterr().out.startswith("ftlab explain <key>\n")


def test_help_beside_what_is_no_task(capsys):
    help_.show(["--config-dir", "conf", "lora.r=8", "--help"])
    assert "Groups and their choices" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"trian: is no task.*Did you mean train\?"):
        help_.show(["trian", "--help"])
