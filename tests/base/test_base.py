"""What every part uses: machine, git, progress, redaction."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ftlab.base import git, machine, redaction
from ftlab.base.console import Terminal
from ftlab.base.progress import Bar
from ftlab.base.terminal import echo, echo_error, echo_json, escape_controls
from ftlab.errors import NotReadyError


def test_a_package_that_is_not_installed_has_no_version_and_no_commit():
    assert machine.package_version("no-package-of-this-name") is None
    assert machine.installed_commit("no-package-of-this-name") is None
    assert machine.package_version("rich") is not None and machine.installed_commit("rich") is None


def test_the_machine_without_any_command_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.gpu_driver() is None
    assert machine.cpu_name() and machine.memory_gib() > 0.1


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit, in which the test stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.txt").write_text("one\n")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_what_git_tells_of_a_checkout(checkout):
    commit = git.head_commit(checkout)
    assert commit is not None and len(commit) == 40
    assert not git.has_changes(checkout) and git.untracked_files(checkout) == []
    (checkout / "a.txt").write_text("two\n")
    (checkout / "b.txt").write_text("new\n")
    assert git.has_changes(checkout) and git.untracked_files(checkout) == ["b.txt"]
    assert git.is_tracked(checkout, "a.txt") and not git.is_tracked(checkout, "b.txt")
    _, lines = git.changes_here(10_000)
    assert lines[-2:] == ["-one\n", "+two\n"]
    _, cut = git.changes_here(30)
    assert cut[-1].startswith("# cut here: ") and cut[-1].endswith("in all, of which 30 are kept\n")


def test_outside_a_repository_git_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.head_commit(tmp_path) is None
    monkeypatch.setenv("PATH", "")
    assert git.run_git(tmp_path, "version") is None


def test_where_there_is_no_terminal_a_bar_is_a_line_at_each_tenth():
    out = io.StringIO()
    with Bar(Console(file=out, width=100), "training", 20, "steps") as bar:
        for step in range(1, 21):
            bar.update(step, f"loss {step}")
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("training  2/20  loss 2  ETA ") and lines[-1].startswith("training  20/20  loss 20")


def test_secrets_of_the_environment_go_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "quite-plain-words")
    monkeypatch.setenv("MY_TOKEN", "short")
    assert redaction.redact("at quite-plain-words, short") == "at <redacted>, short"
    assert redaction.redact_values({"a": ["quite-plain-words", 1], "url": "https://me:secret@host/x"}) == {
        "a": ["<redacted>", 1],
        "url": "https://<redacted>@host/x",
    }


CONTROLS = ("\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "\r", "\x08", "\x7f", "\u202e", "\u2066")


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_no_character_of_a_text_steers_the_terminal(control, colours, capsys):
    file = io.StringIO()
    to = Terminal(file=file, force_terminal=colours is not None, color_system=colours, width=80)
    table = Table("a")
    table.add_row(f"cell {control} end")
    for what in (f"markup {control} end", Text(f"text {control} end", "bold"), table, Panel(f"panel {control} end")):
        to.print(what)
    echo(f"line {control} end")
    echo_error(f"error {control} end")
    written = file.getvalue()
    for name in ("markup", "text", "cell", "panel"):
        assert name in written
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)  # the colours are rich's own
    out, err = capsys.readouterr()
    assert not set(control) & set(plain + out + err) - set(escape_controls(control))
    assert f"<U+{ord(control[0]):04X}>" in out
    echo_json({"text": f"{control} é"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"text": f"{control} é"}
    assert "é" in printed and not any(letter in printed for letter in control if escape_controls(letter) != letter)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_an_error_output_on_a_full_disk_is_no_error_of_its_own():
    with Path("/dev/full").open("w") as full, contextlib.redirect_stderr(full):
        echo_error("what nobody can read")
        echo_error("nor this")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_table_on_a_full_disk_is_an_error_and_what_a_run_prints_is_none(tmp_path, capsys):
    """What a run computes is worth more than what it prints, and its log has that."""
    said = r"The output cannot be written: No space left"
    with (
        Path("/dev/full").open("w") as full,
        contextlib.redirect_stdout(full),
        pytest.raises(NotReadyError, match=said),
    ):
        Terminal().print("a table")
    with Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        Terminal(tmp_path / "log.txt").print("a line")
    told = f"Standard output is full (No space left on device); the run goes on, and what it says is in {tmp_path}"
    assert told in capsys.readouterr().err
