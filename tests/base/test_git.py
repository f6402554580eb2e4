"""What git tells of a repository, and that a repository's settings start nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from ftlab.base import git
from ftlab.use.mine.repository import Repository
from tests.runs import BARE, train_run

# Every key of ``git help config`` whose value is a command, or names a program; * may be any name.
RUN_COMMANDS = (
    "alias.status", "alias.diff", "alias.rev-parse", "alias.ls-files", "blame.ignoreRevsFile", "browser.*.cmd",
    "core.alternateRefsCommand", "core.askPass", "core.editor", "core.fsmonitor", "core.gitProxy", "core.pager",
    "core.sshCommand", "credential.helper", "diff.external", "diff.*.command", "diff.*.textconv", "difftool.*.cmd",
    "filter.*.clean", "filter.*.process", "filter.*.smudge", "gpg.program", "gpg.ssh.program",
    "gpg.ssh.defaultKeyCommand", "guitool.*.cmd", "help.browser", "hook.*.command", "interactive.diffFilter",
    "man.*.cmd", "merge.*.driver", "mergetool.*.cmd", "pager.diff", "pager.status", "pager.config", "pager.ls-files",
    "receive.procReceiveRefs", "remote.*.receivepack", "remote.*.uploadpack",
    "remote.origin.receivepack", "remote.origin.uploadpack", "sendemail.smtpServer",
    "sequence.editor", "submodule.*.update", "tar.*.command", "trailer.*.command", "uploadpack.packObjectsHook",
    "web.browser", "browser.*.path", "man.*.path", "difftool.*.path", "mergetool.*.path", "instaweb.browser",
    "sendemail.ccCmd", "sendemail.tocmd", "gitcvs.dbDriver", "core.hooksPath", "credential.*.helper", "gpg.*.program",
    "pager.*",
)  # fmt: skip
RUNS_ONE = re.compile(
    r"(?i)(\.cmd|ccCmd|tocmd|command|program|helper|editor|pager|driver|textconv|\.clean|smudge|process|askpass|gitproxy"
    r"|external|fsmonitor|hookspath|browser|diffFilter|procreceiverefs|uploadpack|receivepack|tool\.\*\.path|\.\*\.path)$"
)
# Their names end alike, and no command stands in them.
RUN_NONE = {"advice.waitingForEditor", "color.pager", "column.clean", "diff.*.cachetextconv", "includeIf.*.path"}
HOOKS = ("post-index-change", "fsmonitor-watchman", "post-checkout", "pre-commit", "reference-transaction")
NAME = "every.name"


def run(folder: Path, *words: str) -> str:
    """git as a user has it: with all that the repository says."""
    names = {f"GIT_{role}_{what}": "anna@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", "-C", str(folder), *words], env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def hostile(parent: Path) -> tuple[Path, Path]:
    """A repository with every key and hook that starts a command, and the folder in which each leaves its name."""
    folder, traces = parent / "hostile", parent / "traces"
    traces.mkdir()
    run(parent, "init", "-q", "-b", "main", str(folder))
    (folder / "code.py").write_text("print(1)\n" * 40)
    (folder / ".gitattributes").write_text(f"* filter={NAME} diff={NAME} merge={NAME}\n")
    run(folder, "add", "-A")
    run(folder, "commit", "-q", "-m", "Print a one forty times over")
    (folder / "code.py").write_text("print(1)\n" * 40 + "print(2)\n")
    (folder / ".gitmodules").write_text('[submodule "inner"]\n path = inner\n url = ./inner\n')
    run(folder, "commit", "-q", "-am", "Print a two at the end of the ones")
    (folder / "code.py").write_text("print(3)\n" * 40)

    def command(name: str) -> str:
        script = traces.parent / f"{name.replace('*', 'any')}.sh"
        script.write_text(f"#!/bin/sh\ntouch '{traces}/{name}'\nexit 1\n")
        script.chmod(0o755)
        return str(script)

    for key in RUN_COMMANDS:
        script = command(key)
        value = f"!{script}" if key.startswith(("alias", "submodule", "credential")) else script
        run(folder, "config", key.replace("*", NAME), value)
    for key, value in (
        (f"filter.{NAME}.required", "true"), (f"hook.{NAME}.event", "post-index-change"),
        ("remote.origin.url", "ext::" + command("ext")), ("remote.origin.promisor", "true"),
        ("remote.origin.partialCloneFilter", "blob:none"), ("protocol.ext.allow", "always"),
        ("protocol.allow", "always"),
        ("diff.ignoreSubmodules", "none"), ("status.submoduleSummary", "true"), ("log.showSignature", "true"),
    ):  # fmt: skip
        run(folder, "config", key, value)
    for name in HOOKS:
        (folder / ".git" / "hooks" / name).write_bytes(Path(command(f"hook-{name}")).read_bytes())
        (folder / ".git" / "hooks" / name).chmod(0o755)
    assert not list(traces.iterdir())
    return folder, traces


@pytest.fixture
def repository(tmp_path) -> tuple[Path, Path]:
    return hostile(tmp_path)


def test_git_itself_runs_what_the_repository_names(repository):
    folder, traces = repository
    run(folder, "status")
    run(folder, "diff", "HEAD")
    started = {path.name for path in traces.iterdir()}
    assert {"core.fsmonitor", "filter.*.process"} <= started


def test_every_key_of_git_that_starts_a_command_is_among_them():
    keys = {re.sub("<[^>]+>", "*", key) for key in run(Path(), "help", "--config").split()}
    if "core.fsmonitor" not in keys:
        pytest.skip("this git lists no keys")
    starting = {key for key in keys if RUNS_ONE.search(key)} - RUN_NONE
    assert len(starting) > 30
    assert starting - set(RUN_COMMANDS) == set()


def test_settings_that_come_by_another_file_start_nothing_either(tmp_path):
    """Included ones, those of a work tree alone, names with every sign, and hooks that lie elsewhere."""
    folder, trace = tmp_path / "r", tmp_path / "trace"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch '{trace}'\nexit 1\n")
    script.chmod(0o755)
    run(tmp_path, "init", "-q", str(folder))
    (folder / "code.py").write_text("print(1)\n")
    (folder / ".gitattributes").write_text("*.py filter=E=v.il\n*.txt filter=plain\n")
    (folder / "a.txt").write_text("one\n")
    run(folder, "add", "-A")
    run(folder, "commit", "-q", "-m", "One")
    (folder / ".git" / "more").write_text(f'[filter "plain"]\n clean = {script}\n required = true\n')
    (folder / ".git" / "hooks" / "post-index-change").unlink(missing_ok=True)
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "post-index-change").write_bytes(script.read_bytes())
    (tmp_path / "hooks" / "post-index-change").chmod(0o755)
    run(folder, "config", "include.path", "more")
    run(folder, "config", "extensions.worktreeConfig", "true")
    hooks = str(tmp_path / "hooks")
    for key, value in (
        ("filter.E=v.il.clean", str(script)), ("core.fsmonitor", str(script)), ("core.hooksPath", hooks),
    ):  # fmt: skip
        run(folder, "config", "--worktree", key, value)
    (folder / "code.py").write_text("print(2)\n")  # no longer and no shorter: git has to look
    (folder / "a.txt").write_text("two\n")
    assert not trace.exists()
    assert git.has_changes(folder) and git.untracked_files(folder) == []
    with Repository(str(folder), "HEAD") as opened:
        assert opened.attributes(b"code.py")["diff"] != NAME
    assert not trace.exists()
    run(folder, "status")
    assert trace.exists(), "git itself starts them"


def test_nothing_of_a_hostile_repository_runs_at_the_start_of_a_run(repository, monkeypatch, tmp_path):
    folder, traces = repository
    monkeypatch.chdir(folder)
    train_run(tmp_path / "run", *BARE, "train.max_steps=1", "data.max_samples=8")
    written = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert written["git"]["dirty"]
    assert written["git"]["commit"] == run(folder, "rev-parse", "HEAD").strip()
    assert "+print(3)" in (tmp_path / "run" / "git.diff").read_text()
    assert [path.name for path in traces.iterdir()] == []


def test_nothing_of_a_hostile_repository_runs_while_it_is_mined(repository):
    folder, traces = repository
    with Repository(str(folder), "HEAD") as opened:
        assert len(opened.history()) == 2
        assert [entry.path for entry in opened.entries()] == [b".gitattributes", b"code.py"]
        assert opened.attributes(b"code.py")["diff"] == NAME
        trees = [line.split()[1] for line in run(folder, "log", "--format=x %T").splitlines()]
        with_diff = [list(lines) for lines in opened.diffs([(trees[1], trees[0])])]
        assert b"+print(2)\n" in with_diff[0]
    assert [path.name for path in traces.iterdir()] == []


def test_a_submodule_is_not_entered(tmp_path):
    folder, inner, trace = tmp_path / "outer", tmp_path / "outer" / "inner", tmp_path / "trace"
    for repository in (folder, inner):
        run(tmp_path, "init", "-q", str(repository))
        (repository / "file").write_text("one\n")
        run(repository, "add", "file")
        run(repository, "commit", "-q", "-m", "One")
    run(folder, "update-index", "--add", "--cacheinfo", f"160000,{run(inner, 'rev-parse', 'HEAD').strip()},inner")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch '{trace}'\nexit 1\n")
    script.chmod(0o755)
    run(inner, "config", "core.fsmonitor", str(script))
    run(folder, "status")
    assert trace.exists()
    trace.unlink()
    assert git.has_changes(folder)  # the submodule is added
    assert not trace.exists()


def test_nothing_is_fetched_from_where_a_repository_says(repository, tmp_path, monkeypatch):
    folder, traces = repository
    lost = run(folder, "rev-parse", "HEAD:code.py").strip()
    (folder / ".git" / "objects" / lost[:2] / lost[2:]).unlink()
    monkeypatch.chdir(folder)
    git.changes_here(1 << 20)
    with Repository(str(folder), "HEAD") as opened, pytest.raises(Exception, match=r"damaged|error|object"):
        list(opened.objects([lost]))
    assert [path.name for path in traces.iterdir()] == []


def test_the_users_own_settings_in_the_environment_stay(repository, monkeypatch):
    folder, _ = repository
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.name")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "Anna")
    assert git.run_git(folder, "config", "user.name") == "Anna"
    assert git.run_git(folder, "config", "core.fsmonitor") == "false"
    assert git.run_git(folder, "config", "core.hooksPath") == os.devnull
