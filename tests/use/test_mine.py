"""``ftlab mine``: real repositories, made by git, as the three data sets of phase=codebase."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.base.redaction import secret_kind
from ftlab.config import command_line
from ftlab.config.compose import compose, validate
from ftlab.errors import ConfigError, NotReadyError
from ftlab.use.mine.command import mine
from tests.runs import metrics, train_run

pytestmark = pytest.mark.usefixtures("here")

SETS = ("phase1_foundation", "phase2_evolution", "phase3_pr_mastery")
ANNA, BEN = ("Anna", "anna@example.org"), ("Ben", "ben@example.org")
# Put together here, so that no file of this project holds anything that looks like one.
LONG = "q7Rt2Zx9Lm4Kp1Vb8Ns3Wd6Yf5Hg0Jc"
SECRETS = {
    "AWS access key": "AKIA" + "Q3EXAMPLE7XYZ2AB",
    "GitHub token": "ghp_" + LONG + "A1b2",
    "Slack token": "xoxb-" + "123456789012-" + LONG[:20],
    "Google API key": "AIza" + LONG + "Qa9b",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA7\n-----END RSA PRIVATE" + " KEY-----",
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0." + LONG,
    "value of a secret's name": 'db_password = "' + LONG + '"',
    "password in a URL": "postgres://app:" + LONG + "@db/main",
    "Authorization header": "Authorization: " + "Bearer " + LONG,
}


class Repo:
    """A repository whose clock goes on by an hour with every commit."""

    def __init__(self, path: Path):
        self.path, self.clock, self.who = path, 1_600_000_000, ANNA
        subprocess.run(["git", "init", "-q", "-b", "main", str(path)], check=True)

    def git(self, *command: str, given: bytes = b"") -> str:
        name, email = self.who
        at = f"{self.clock} +0130"
        own = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
               for what, value in (("NAME", name), ("EMAIL", email), ("DATE", at))}  # fmt: skip
        env = {**os.environ, **own, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(["git", "-C", str(self.path), *command], env=env, input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "replace").strip()

    def put(self, name: str, content: str | bytes | None) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, message: str | bytes, files: dict[str, str | bytes | None] | None = None, who=ANNA) -> str:
        for name, content in (files or {}).items():
            self.put(name, content)
        self.who, self.clock = who, self.clock + 3600
        self.git("add", "-A")
        content = message if isinstance(message, bytes) else message.encode()
        command = ("commit", "-q", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "-F", "-")
        self.git(*command, given=content)
        return self.git("rev-parse", "HEAD")

    def merge(self, branch: str, message: str, who=BEN) -> str:
        self.who, self.clock = who, self.clock + 3600
        self.git("merge", "-q", "--no-ff", "-m", message, branch)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture
def mined(tmp_path, capsys) -> Callable[..., Mined]:
    def run(*argv: str) -> Mined:
        given = command_line.read(["mine", *argv])
        mine(validate(compose(given.overrides)), given.overrides)
        out = next(argument.removeprefix("out=") for argument in argv if argument.startswith("out="))
        return Mined(Path(out), capsys.readouterr().out)

    return run


class Mined:
    def __init__(self, folder: Path, said: str):
        self.folder, self.said = folder, said
        self.report = json.loads((folder / "mining.json").read_text())
        self.left_out = [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]

    def rows(self, number: int) -> list[str]:
        """Of both splits, train first."""
        files = (self.folder / f"{SETS[number - 1]}{part}.jsonl" for part in ("", ".validation"))
        rows = [json.loads(line) for file in files for line in file.read_bytes().decode().split("\n")[:-1]]
        assert all(list(row) == ["training_content"] for row in rows)
        return [row["training_content"] for row in rows]

    def set(self, number: int) -> dict:
        return self.report["sets"][SETS[number - 1]]

    def why(self, what: str) -> list[str]:
        return [one["reason"] for one in self.left_out if one["what"] == what and "file" not in one]


def numbers(count: int, **changed: str) -> str:
    return "".join(changed.get(f"n{n}", f"value = {n}\n") for n in range(count))


# ---------------------------------------------------------------------------------------------------------------- rows


def test_a_file_a_commit_and_a_pull_request(repo, mined):
    """The whole text of one row of each set, as the shipped sets spell theirs."""
    licence = "// Copyright Anna. All rights reserved.\n\n"
    repo.commit("Begin", {"src/a.js": licence + "let a = 1;\n"})
    repo.git("checkout", "-q", "-b", "better-a")
    first = repo.commit("Count from two\n\nOne was too few.", {"src/a.js": licence + "let a = 2;\n"})
    repo.commit("Count from three, as Ben asked", {"src/a.js": licence + "let a = 3;\n"})
    repo.git("checkout", "-q", "main")
    repo.merge("better-a", "Merge pull request #7 from anna/better-a\n\nCount better\n\nThe page needs it.")
    found = mined(f"repo={repo.path}", "out=out", "validation=0")

    assert found.rows(1) == ["// File: src/a.js\n\n" + licence + "let a = 3;\n"]
    assert found.rows(2)[1] == (
        f"commit {first}\nAuthor: Anna <anna@example.org>\nDate:   Sun Sep 13 15:56:40 2020 +0130\n\n"
        "    Count from two\n\n    One was too few.\n\n"
        "diff --git a/src/a.js b/src/a.js\n--- a/src/a.js\n+++ b/src/a.js\n@@ -1,3 +1,3 @@\n"
        " // Copyright Anna. All rights reserved.\n \n-let a = 1;\n+let a = 2;\n"
    )
    assert found.rows(3) == [
        "Pull request #7: Count better\nAuthor: Anna <anna@example.org>\nBranch: better-a\n\n"
        "## Description\n\nThe page needs it.\n\n## Diff\n\n"
        "diff --git a/src/a.js b/src/a.js\n--- a/src/a.js\n+++ b/src/a.js\n@@ -1,3 +1,3 @@\n"
        " // Copyright Anna. All rights reserved.\n \n-let a = 1;\n+let a = 3;\n\n"
        "## Review\n\nAnna on src/a.js\n> Count from two\n>\n> One was too few.\n\n"
        "Anna on src/a.js\n> Count from three, as Ben asked\n\n"
        "## Resolution\n\nMerged by Ben with 2 commits.\n"
    ]
    assert found.set(2)["left_out"] == {"a merge (the third set has it)": 1}
    assert [found.set(n)["seen"] for n in (1, 2, 3)] == [1, 4, 1]


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.py", "# File: a.py"), ("Makefile", "# File: Makefile"), ("a.sql", "-- File: a.sql"),
        ("a.H", "// File: a.H"), ("a.html", "<!-- File: a.html -->"), ("a.css", "/* File: a.css */"),
    ],
)  # fmt: skip
def test_the_path_stands_in_a_comment_of_the_language(name, head, repo, mined):
    repo.commit("Begin", {name: "x\n"})
    assert mined(f"repo={repo.path}", "out=out").rows(1) == [f"{head}\n\nx\n"]


def test_merges_are_told_apart(repo, mined):
    """A plain merge takes its words from its commits; pulls of main and merges in a branch are no pull requests."""
    repo.commit("Begin", {"a.py": numbers(30)})
    repo.git("checkout", "-q", "-b", "feature")
    repo.commit("Add b\n\nIt is missed.", {"b.py": "b = 1\n"}, BEN)
    repo.git("checkout", "-q", "-b", "inner")
    repo.commit("Add c", {"c.py": "c = 1\n"}, BEN)
    repo.git("checkout", "-q", "feature")
    inner = repo.merge("inner", "Merge branch 'inner' into feature")
    repo.commit("Tests of b", {"test_b.py": "assert b\n"})
    repo.git("checkout", "-q", "main")
    repo.merge("feature", "Merge branch 'feature'\n\n* feature:\n  Add b\n")
    repo.git("checkout", "-q", "-b", "other")
    repo.commit("Elsewhere", {"d.py": "d = 1\n"})
    repo.git("checkout", "-q", "main")
    pull = repo.merge("other", "Merge remote-tracking branch 'origin/main'")
    found = mined(f"repo={repo.path}", "out=out", "validation=0")
    (row,) = found.rows(3)
    head = "Pull request: Add b\nAuthor: Ben <ben@example.org>\nBranch: feature\n\n## Description\n\nIt is missed.\n\n"
    assert row.startswith(head)
    assert "## Review\n\nBen on c.py\n> Add c\n\nAnna on test_b.py\n> Tests of b\n" in row
    assert row.endswith("Merged by Ben with 3 commits.\n")
    assert row.count("diff --git") == 3
    assert found.why(inner)[1:] == ["a merge inside a branch"]
    assert found.why(pull)[1:] == ["a merge of a main branch, not of a feature"]
    assert found.set(3) == {**found.set(3), "seen": 3, "kept": {"merge": 1}}


def test_squashes_are_pull_requests(repo, mined):
    repo.commit("Begin", {"a.py": "a = 1\n"})
    repo.commit("Better a (#12)\n\n* Set a to two\n\nOne is wrong.\n\n* Say why", {"a.py": "a = 2  # why\n"})
    repo.commit("Plain", {"a.py": "a = 3\n"})
    found = mined(f"repo={repo.path}", "out=out")
    (row,) = found.rows(3)
    assert row.startswith(
        "Pull request #12: Better a\nAuthor: Anna <anna@example.org>\n\n## Description\n\nSet a to two"
    )
    assert "\n\n## Review\n\nAnna\n> Say why\n\n## Resolution\n\nMerged by Anna as one commit.\n" in row
    assert found.set(3)["kept"] == {"squash": 1}
    assert mined(f"repo={repo.path}", "out=out2", "series=never").set(3)["kept"] == {"squash": 1}


def test_commits_in_a_row_are_a_series_where_nothing_is_merged(repo, mined):
    repo.commit("Begin", {"a.py": numbers(9), "b.py": "b\n", "c.py": "c\n"}, BEN)
    repo.commit("One\n\nOf three.", {"a.py": numbers(9, n1="one\n")})
    repo.commit("Two\n\nMore.", {"a.py": numbers(9, n1="one\n", n2="two\n"), "b.py": "bb\n"})
    repo.commit("Three", {"b.py": "bbb\n"})
    repo.commit("Another file", {"c.py": "cc\n"})
    repo.commit("Another author", {"c.py": "ccc\n"}, BEN)
    repo.clock += 5 * 86400
    repo.commit("Another week", {"c.py": "cccc\n"}, BEN)
    found = mined(f"repo={repo.path}", "out=out")
    (row,) = found.rows(3)
    assert row.startswith(
        "Pull request: One\nAuthor: Anna <anna@example.org>\n\n## Description\n\nOf three.\n\n## Diff\n"
    )
    assert "-value = 1\n-value = 2\n+one\n+two\n" in row and "-b\n+bbb\n" in row
    assert "## Review\n\nAnna on a.py, b.py\n> Two\n>\n> More.\n\nAnna on b.py\n> Three\n" in row
    assert row.endswith("Merged by Anna with 3 commits.\n")
    assert found.set(3)["kept"] == {"linear": 1}
    assert mined(f"repo={repo.path}", "out=two", "series_commits=2").rows(3)[0].count("diff --git") == 2
    assert mined(f"repo={repo.path}", "out=no", "series=never").set(3)["seen"] == 0
    assert len(mined(f"repo={repo.path}", "out=week", "series_hours=200").rows(3)) == 2


# ----------------------------------------------------------------------------------------------------- what is left out


def test_everything_left_out_is_counted_with_its_reason(repo, mined):
    files = {
        "ok.py": "ok = 1\n",
        "crlf.bat": "echo 1\r\necho 2\r\n",
        "data.bin": b"\0\1\2" * 20,
        "empty.py": "",
        "latin.txt": "caf\xe9\n".encode("latin-1"),
        "vendor/lib.py": "v = 1\n",
        "web/node_modules/x/index.js": "n = 1\n",
        "jquery.min.js": "j = 1\n",
        "poetry.lock": "[[package]]\n",
        "gen.py": "# Code generated by protoc. DO NOT EDIT.\nx = 1\n",
        "mine/theirs.py": "t = 1\n",
        "mine/made.py": "m = 1\n",
        "third_party/ours.py": "o = 1\n",
        "picture.svg": "<svg/>\n",
        ".env": "DEBUG=1\n",
        "long.txt": "x" * 3000 + "\n",
        "big.txt": numbers(9999),
        "copy.py": "ok = 1\n",
        "docs/page.md": "# Page\n",
        ".gitattributes": "mine/theirs.py linguist-vendored\nmine/made.py linguist-generated=true\n"
        "third_party/ours.py -linguist-vendored\npicture.svg -diff\n",
        'na "me\t1 é.py': "named = 1\n",
    }
    for name, content in files.items():
        repo.put(name, content)
    (repo.path / "link.py").symlink_to("ok.py")
    (repo.path / "module").mkdir()
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    first = repo.commit("Begin")
    found = mined(f"repo={repo.path}", "out=out", "exclude=[docs/*]", "max_file_kb=100", "validation=0")
    reasons = {name: found.why(name)[0] for name in files if found.why(name)}
    assert reasons == {
        "data.bin": "binary",
        "picture.svg": "binary",
        "empty.py": "empty",
        "latin.txt": "not UTF-8 (task.encoding reads it)",
        "vendor/lib.py": "vendored",
        "web/node_modules/x/index.js": "vendored",
        "mine/theirs.py": "vendored",
        "jquery.min.js": "generated",
        "poetry.lock": "generated",
        "gen.py": "generated",
        "mine/made.py": "generated",
        ".env": "a file for secrets, by its name",
        "long.txt": "a line longer than task.max_line",
        "big.txt": "larger than task.max_file_kb",
        "ok.py": "the same as another",
        "docs/page.md": "task.exclude",
    }
    assert found.why("link.py") == ["a symbolic link"] and found.why("module") == ["a submodule"]
    heads = {row.partition("\n")[0] for row in found.rows(1)}
    assert heads == {
        "# File: .gitattributes", "# File: copy.py", "# File: crlf.bat", "# File: third_party/ours.py",
        '# File: na "me\t1 é.py',
    }  # fmt: skip
    assert "# File: crlf.bat\n\necho 1\r\necho 2\r\n" in found.rows(1)
    first_set = found.set(1)
    assert first_set["seen"] == len(files) + 2 == first_set["kept"]["file"] + sum(first_set["left_out"].values())

    # The same files of the commit's diff; it is kept without them.
    (row,) = found.rows(2)
    inside = {one["file"]: one["reason"] for one in found.left_out if "file" in one and one["what"] == first}
    assert inside.keys() == {*reasons, "link.py", "module"} - {"ok.py", "empty.py", "big.txt"}
    assert {name: reasons[name] for name in inside if name in reasons} == {
        name: reason for name, reason in inside.items() if name in reasons
    }
    assert sum(found.set(2)["files_left_out_of_kept_diffs"].values()) == len(inside)
    assert not re.search(r"b/mine/|Subproject|Binary|\nindex |DEBUG", row)

    latin = mined(f"repo={repo.path}", "out=latin", "encoding=latin-1")
    assert "# File: latin.txt\n\ncafé\n" in latin.rows(1)


def test_commits_left_out(repo, mined):
    repo.commit("Begin", {"a.py": numbers(10)})
    empty = repo.commit("Nothing changes")
    silent = repo.commit("", {"a.py": numbers(11)})
    huge = repo.commit("Ten thousand lines", {"big.py": numbers(10_000)})
    only = repo.commit("Update a library", {"vendor/x.py": "x = 1\n"})
    mixed = repo.commit("Locks", {"vendor/x.py": "x = 2\n", "yarn.lock": "x\n"})
    again = {"a.py": numbers(12)}
    repo.commit("Twice", again)
    repo.commit("Undo", {"a.py": numbers(11)})
    twice = repo.commit("Twice", again)
    repo.commit("Remove", {"big.py": None, "a.py": None})
    found = mined(f"repo={repo.path}", "out=out", "max_diff_kb=100")
    said = {id_: found.why(id_)[0] for id_ in (empty, silent, huge, only, mixed, twice)}
    assert said == {
        empty: "no change",
        silent: "no message",
        huge: "larger than task.max_diff_kb",
        only: "only files left out: vendored",
        mixed: "only files left out: several reasons",
        twice: "the same as another",
    }
    second = found.set(2)
    assert second["seen"] == 10 == second["kept"]["commit"] + sum(second["left_out"].values())
    newest = mined(f"repo={repo.path}", "out=newest", "max_commits=3", "series=never", "validation=0")
    assert newest.set(2)["left_out"] == {"older than the newest task.max_commits": 7}
    assert [re.search(r"\n    (.*)\n", row)[1] for row in newest.rows(2)] == ["Undo", "Twice", "Remove"]


def test_messages_in_other_encodings(repo, mined):
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repo.commit("Caf\xe9 offen".encode("latin-1"), {"a.py": "a = 1\n"})
    repo.git("config", "--unset", "i18n.commitEncoding")
    repo.commit("Cafe zu", {"a.py": "a = 2\n"})  # git itself would mend it
    raw = repo.git("cat-file", "commit", "HEAD").encode().replace(b"Cafe", b"Caf\xe9")
    garbled = repo.git("hash-object", "-t", "commit", "-w", "--stdin", given=raw)
    repo.git("reset", "-q", "--hard", garbled)
    repo.commit("Überall", {"a.py": "a = 3\n"})
    found = mined(f"repo={repo.path}", "out=out")
    assert "    Café offen\n" in "".join(found.rows(2)) and "    Überall\n" in "".join(found.rows(2))
    assert found.why(garbled) == ["not UTF-8 (task.encoding reads it)"]


# -------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_known(kind):
    assert secret_kind(f"x = 1\n+{SECRETS[kind]}\n") == kind


@pytest.mark.parametrize(
    "text",
    [
        "token = tokenizer.encode_something_long(text2)", "password = os.environ['DATABASE_PASSWORD_2']",
        'api_key = "your-api-key-goes-here-123"', 'token = "<your token of 40 letters here>"',
        "secret=${SECRET_OF_2_ENV}", "num_tokens = 123456789012345678901", "https://user:password@example.org",
        "access_key: aaaaaaaaaaaaaaaaaaaaaaaa11",
        "pad_token_id=sha256_of_tokenizer_file", "task-12345678901234567890",
        "token_type_ids = inputs_with_2_sequences1",
        "AKIA is how they start", "-----BEGIN PUBLIC KEY-----", "def test_of_ghp_tokens():",
    ],
)  # fmt: skip
def test_what_is_no_secret(text):
    assert secret_kind(text) is None


def test_no_planted_secret_is_in_any_output(repo, mined):
    """In a file, in one that was removed, in a message, in a merged branch, in the name of a file."""
    repo.commit("Begin", {"a.py": numbers(50)})
    for number, secret in enumerate(SECRETS.values()):
        repo.commit(f"Settings {number}", {f"now{number}.cfg": f"# settings {number}\n{secret}\n"})
        repo.commit(f"More {number}", {f"gone{number}.cfg": f"# others {number}\n{secret}\n"})
    repo.commit("Clean", {f"gone{number}.cfg": None for number in range(len(SECRETS))})
    github = SECRETS["GitHub token"]
    told = repo.commit(f"Tell\n\nIt works with {github}.", {"a.py": numbers(51)})
    repo.commit("Named", {f"{github}.txt": "text\n"})
    repo.git("checkout", "-q", "-b", "leak")
    repo.commit("Leak", {"leak.py": f"key = '{github}'\n"})
    repo.git("checkout", "-q", "main")
    leak = repo.merge("leak", "Merge branch 'leak'")
    # Behind the numbers of a hunk git shows the beginning of a line above it, cut to 80 bytes.
    cut = f"settings_{'x' * 45} = '{github}'\n"
    repo.commit("Long", {"long.py": cut + "".join(f"  a{n}\n" for n in range(20))})
    below = repo.commit("Below", {"long.py": cut + "".join(f"  a{n}\n" for n in range(19)) + "  b\n"})
    found = mined(f"repo={repo.path}", "out=out")

    written = {path.name: path.read_text() for path in found.folder.iterdir()}
    planted = [line for secret in SECRETS.values() for line in (secret, secret[-24:], *secret.splitlines())]
    for name, text in [*written.items(), ("the terminal", found.said)]:
        for secret in [*planted, github[:20]]:
            assert secret not in text, name
    assert any("+  b\n" in row for row in found.rows(2)) and found.why(below) == []
    counts = found.report["secrets"]["kinds"]
    assert counts.keys() == SECRETS.keys()
    of_github = [one for one in found.report["secrets"]["found"] if one["kind"] == "GitHub token"]
    assert {"set": SETS[1], "in": told, "file": "its message", "kind": "GitHub token"} in of_github
    assert {"set": SETS[2], "in": leak, "file": "leak.py", "kind": "GitHub token"} in of_github
    assert {"set": SETS[0], "in": "<a name that looks like a secret>", "kind": "GitHub token"} in of_github
    assert found.set(1)["left_out"] == {"looks like it holds a secret": len(SECRETS) + 3}
    assert f"Secrets: {sum(counts.values())} of all these" in found.said


# ---------------------------------------------------------------------------------------------------------- determinism


def history(repo: Repo) -> None:
    """Renames, deletions, CRLF, no newline at the end, a merge; paths that git would quote."""
    repo.commit(
        "Begin", {"a.py": numbers(40), "old.py": numbers(60), "é b.txt": "one\r\ntwo\r\n", ".gitattributes": ""}
    )
    repo.commit("Rename", {"old.py": None, "sub/new.py": numbers(60, n3="three\n")})
    repo.commit("Append", {"a.py": numbers(40) + "last = 1", "é b.txt": "one\r\n2\r\n", "empty.py": ""})
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("Side", {"a.py": numbers(40, n7="seven\n\n\n") + "last = 1", 'q"uote.py': "q = 1\n"}, BEN)
    repo.commit("Mode", {"run.sh": "echo\n"}, BEN)
    repo.git("update-index", "--chmod=+x", "run.sh")
    (repo.path / "run.sh").chmod(0o755)
    repo.commit("Run", {"sub/new.py": numbers(60, n50="fifty\n")}, BEN)
    repo.git("checkout", "-q", "main")
    repo.commit("Main goes on", {"b.py": "b = 1\n"})
    repo.merge("side", "Merge branch 'side'\n\nFrom the side")
    repo.commit("Tidy", {"empty.py": None, "é b.txt": None})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


HOSTILE = """\
[core]
    quotePath = true
    abbrev = 5
    attributesFile = {attributes}
[color]
    ui = always
    diff = always
[diff]
    noprefix = true
    mnemonicPrefix = true
    context = 9
    interHunkContext = 9
    renames = false
    renameLimit = 1
    algorithm = patience
    external = false
    suppressBlankEmpty = true
    indentHeuristic = false
    submodule = log
    relative = true
    colorMoved = zebra
[diff "odd"]
    textconv = false
    xfuncname = "^.*$"
    binary = true
[log]
    showSignature = true
    date = relative
[i18n]
    logOutputEncoding = ISO-8859-1
[merge]
    renames = false
"""


def test_the_same_repository_gives_the_same_bytes(repo, mined, tmp_path, monkeypatch):
    """Whatever the user's and the repository's configuration, locale, zone, clock, and what lies in the work tree."""
    history(repo)
    expected = contents(mined(f"repo={repo.path}", "out=first").folder)
    assert len(mined(f"repo={repo.path}", "out=rows", "validation=0").rows(2)) == 8
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    assert contents(mined("repo=bare.git", "out=bare").folder) == expected

    (tmp_path / "attributes").write_text("* diff=odd\n*.py linguist-vendored\n")
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(HOSTILE.format(attributes=tmp_path / "attributes"))
    with (repo.path / ".git" / "config").open("a") as file:
        file.write(HOSTILE.format(attributes=tmp_path / "attributes"))
    (repo.path / ".gitattributes").write_text("* -diff linguist-vendored\n")  # not committed
    (repo.path / "a.py").write_text("changed\n")
    for name, value in {
        "HOME": str(home), "LC_ALL": "C", "LANG": "de_DE.UTF-8", "TZ": "Asia/Tokyo", "GIT_DIFF_OPTS": "-u9",
        "GIT_EXTERNAL_DIFF": "false", "GIT_DIR": str(tmp_path), "GIT_INDEX_FILE": "x", "PYTHONHASHSEED": "7",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    assert contents(mined(f"repo={repo.path}", "out=again").folder) == expected
    monkeypatch.chdir(repo.path)
    assert contents(mined("repo=.", "out=../inside").folder) == expected


def test_diffs_apply(repo, mined):
    """Every diff, put on the tree before it, gives the tree after it."""
    history(repo)
    found = mined(f"repo={repo.path}", "out=out", "series=always")
    rows = {row.split()[1]: row[row.index("diff --git") :] for row in found.rows(2)}
    assert len(rows) == 8
    merges = repo.git("rev-list", "--merges", "HEAD").split()
    (of_merge,) = (row for row in found.rows(3) if "Branch: side" in row)
    diff = of_merge[of_merge.index("diff --git") : of_merge.index("\n## Review")]
    for id_, text in [*rows.items(), (merges[0], diff)]:
        before = repo.git("rev-list", "--parents", "-n1", id_).split()[1:2]
        repo.git("read-tree", *(before or ["--empty"]))
        repo.git("apply", "--cached", "--whitespace=nowarn", "-", given=text.encode())
        assert repo.git("write-tree") == repo.git("rev-parse", f"{id_}^{{tree}}"), text
    assert "rename from old.py\nrename to sub/new.py\n" in "".join(rows.values())
    assert "\\ No newline at end of file\n" in "".join(rows.values())
    assert len(found.rows(3)) == 2  # and the run of Anna's first commits


def test_validation_rows_stay_where_they_are(repo, mined):
    """They are chosen by content: more commits move none of them."""
    for number in range(60):
        repo.commit(f"Commit {number}", {f"f{number}.py": f"x = {number}\n"})
    before = mined(f"repo={repo.path}", "out=before", "validation=0.2")
    for number in range(60, 70):
        repo.commit(f"Commit {number}", {f"f{number}.py": f"x = {number}\n"})
    after = mined(f"repo={repo.path}", "out=after", "validation=0.2")
    for name in SETS[:2]:
        train, validation = ((before.folder / f"{name}{part}.jsonl").read_text() for part in ("", ".validation"))
        assert 4 <= len(validation.splitlines()) <= 22
        assert not set(train.splitlines()) & set(validation.splitlines())
        assert set(train.splitlines()) <= set((after.folder / f"{name}.jsonl").read_text().splitlines())
    few = mined(f"repo={repo.path}", "out=few", "validation=0.0001")
    assert [few.set(number)["rows"] for number in (1, 2)] == [{"train": 69, "validation": 1}] * 2


# ---------------------------------------------------------------------------------------------- where it may be pointed


def test_a_folder_of_a_repository(repo, mined):
    history(repo)
    whole = mined(f"repo={repo.path}", "out=whole", "validation=0")
    found = mined(f"repo={repo.path / 'sub'}", "out=out", "validation=0")
    assert [row.partition("\n")[0] for row in found.rows(1)] == ["# File: sub/new.py"]
    assert len(found.rows(2)) == 2 and all("diff --git a/sub/new.py" in row for row in found.rows(2))
    assert found.set(2)["left_out"] == {"no change in sub/": 6, "a merge (the third set has it)": 1}
    assert whole.report["folder"] == "" and found.report["folder"] == "sub/"


def test_a_shallow_clone_says_so(repo, mined, tmp_path):
    for number in range(6):
        repo.commit(f"Commit {number}", {"a.py": f"x = {number}\n"})
    subprocess.run(["git", "clone", "-q", "--depth", "3", f"file://{repo.path}", "shallow"], check=True)
    found = mined("repo=shallow", "out=out")
    assert "A shallow clone: its history ends early." in found.said and found.report["shallow"] is True
    edge = {"at the edge of a shallow clone: what it changed is not here": 1}
    assert len(found.rows(2)) == 2 and found.set(2)["left_out"] == edge


def test_another_revision(repo, mined):
    repo.commit("One", {"a.py": "a = 1\n"})
    repo.git("tag", "v1")
    repo.commit("Two", {"a.py": "a = 2\n"})
    assert mined(f"repo={repo.path}", "out=out", "revision=v1").rows(1) == ["# File: a.py\n\na = 1\n"]
    with pytest.raises(NotReadyError, match=r"task\.revision=v9: .* has no such commit, branch or tag"):
        mined(f"repo={repo.path}", "out=other", "revision=v9")
    assert not Path("other").exists()


def test_mistakes_are_said_at_once(repo, mined, tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as caught:
        mine(validate(compose(command_line.read(["mine", "encoding=klingon"]).overrides)), [])
    assert [mistake.key for mistake in caught.value.mistakes] == ["task.repo", "task.out", "task.encoding"]
    with pytest.raises(NotReadyError, match="has no commit yet: there is nothing to mine"):
        mined(f"repo={repo.path}", "out=out")
    with pytest.raises(NotReadyError, match=r"task\.repo=nowhere is no folder"):
        mined("repo=nowhere", "out=out")
    with pytest.raises(NotReadyError, match=r"is no folder\. Clone it first"):
        mined("repo='https://example.org/x.git'", "out=out")
    Path("plain").mkdir()
    with pytest.raises(NotReadyError, match=r"task\.repo=plain is no git repository: .*not a git repository"):
        mined("repo=plain", "out=out")
    repo.commit("One", {"a.py": "a = 1\n"})
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(NotReadyError, match="needs git, and there is none on the PATH"):
        mined(f"repo={repo.path}", "out=out")
    assert not Path("out").exists()


def test_a_folder_that_is_there_is_not_written_to(repo, mined):
    repo.commit("One", {"a.py": "a = 1\n"})
    first = contents(mined(f"repo={repo.path}", "out=out").folder)
    Path("out/notes.txt").write_text("mine\n")
    repo.commit("Two", {"a.py": "a = 2\n"})
    with pytest.raises(NotReadyError, match=r"task\.out=out is there already\. task\.overwrite=true replaces"):
        mined(f"repo={repo.path}", "out=out")
    assert contents(Path("out")) == {**first, "notes.txt": b"mine\n"}
    assert mined(f"repo={repo.path}", "out=out", "--overwrite").set(2)["seen"] == 2
    assert Path("out/notes.txt").read_text() == "mine\n"
    assert [path.name for path in Path().glob(".out*")] == []


def test_a_damaged_repository_leaves_nothing(repo, mined):
    repo.commit("One", {"a.py": numbers(100)})
    blob = repo.git("rev-parse", "HEAD:a.py")
    path = repo.path / ".git" / "objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.unlink()
    with pytest.raises(NotReadyError, match=f"damaged: git has no object {blob}"):
        mined(f"repo={repo.path}", "out=out")
    assert not Path("out").exists() and list(Path().glob(".out*")) == []


# --------------------------------------------------------------------------------------------------------- what follows


@pytest.mark.matrix
def test_what_it_says_to_type_trains(repo, mined, tmp_path):
    """By the names of the curriculum, from the registry that the mining wrote."""
    history(repo)
    found = mined(f"repo={repo.path}", "out=out")
    command = found.said.partition("It trains the embedded model with\n")[2].splitlines()[0]
    program, *typed = shlex.split(command)
    assert program == "ftlab" and "data.registry=out/dataset_info.yaml" in typed
    run = train_run(tmp_path / "run", *typed, "train.max_steps=1", "train.logging_steps=1", "tracker=none")
    assert len(metrics(run, "loss")) == 3 and run.manifest()["status"] == "finished"
    ledger = json.loads(run.ledger("evolution").read_text())
    kept = [found.set(2)["rows"][split] for split in ("train", "validation")]
    assert [ledger["splits"][split]["rows"]["kept"] for split in ("train", "validation")] == kept


def test_a_set_without_rows_is_left_out_of_the_command(repo, mined):
    repo.commit("One", {"a.py": "a = 1\n"})
    found = mined(f"repo={repo.path}", "out=out")
    assert "ftlab phase=codebase data.registry=out/dataset_info.yaml 'run.phases=[foundation,evolution]' " in found.said
    assert "phase3_pr_mastery" not in (found.folder / "dataset_info.yaml").read_text()


def test_as_json_rows_of_each_set(repo, mined):
    repo.put("ok.py", "ok = 1\n")
    repo.commit("Begin")
    said = json.loads(mined(f"repo={repo.path}", "out=out", "validation=0", "format=json").said)
    assert said["registry"] == "out/dataset_info.yaml"
    assert said["sets"]["phase1_foundation"]["train"] == 1
    assert said["phases"] == ["foundation", "evolution"]
