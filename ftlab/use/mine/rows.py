"""Files, commits and series as the texts of the curriculum, in the shape of the shipped dataset/phase*.jsonl."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# How a comment starts and ends, by the ending of a file's name; any other's with #.
_COMMENTS = {
    ("//", ""): "c cc cpp cs cu cuh cxx dart fs go groovy h hh hpp java js jsx kt kts less m mjs mm php proto rs sass "
    "scala scss sol swift ts tsx v zig",
    ("--", ""): "ada adb ads elm hs lua sql vhd vhdl",
    ("<!--", " -->"): "htm html markdown md mdx svelte svg vue xhtml xml xsl",
    ("/*", " */"): "css",
    (";", ""): "asm clj cljs el ini lisp scm",
    ("%", ""): "bib erl hrl sty tex",
    ("..", ""): "rst",
    ('"', ""): "vim",
}
_MARKS = {ending: marks for marks, endings in _COMMENTS.items() for ending in endings.split()}
_GITHUB = re.compile(r"Merge pull request #(\d+) from (\S+)")
_BRANCH = re.compile(r"Merge (?:remote-tracking )?branch '([^']+)'")
_GITLAB = re.compile(r"See merge request \S*!(\d+)\s*$", re.MULTILINE)
_NAMED_FILES = 3


@dataclass(frozen=True, slots=True)
class Person:
    """:param date: as git shows it; "" where it is no date."""

    name: str
    email: str
    date: str

    def __str__(self) -> str:
        return f"{self.name} <{self.email}>"


@dataclass(frozen=True, slots=True)
class Commit:
    """:param parents: as the commit has them, also where a shallow clone has not. :param when: its author's.
    :param message: None where it cannot be read."""

    id: str
    tree: str
    parents: tuple[str, ...]
    author: Person
    committer: Person
    when: int
    message: str | None

    @property
    def subject(self) -> str:
        return (self.message or "").partition("\n")[0].strip()

    @property
    def body(self) -> str:
        return (self.message or "").partition("\n")[2].strip("\n")


def parse_commit(id_: str, raw: bytes, decode: Callable[[bytes], str | None]) -> Commit:
    """:param raw: the object. :param decode: for what says no encoding of its own."""
    head, _, message = raw.partition(b"\n\n")
    facts: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\n"):
        if not line.startswith(b" "):  # else a signature goes on
            name, _, value = line.partition(b" ")
            facts.setdefault(name, []).append(value)

    def read(content: bytes) -> str | None:
        for encoding in facts.get(b"encoding", []):
            try:
                return content.decode(encoding.decode("ascii"))
            except (UnicodeDecodeError, LookupError):
                pass
        return decode(content)

    author, when = _person(facts[b"author"][0], read)
    parents = tuple(parent.decode() for parent in facts.get(b"parent", []))
    text = read(message)
    text = text if text is None else text.replace("\r\n", "\n").strip("\n").rstrip()
    return Commit(
        id_, facts[b"tree"][0].decode(), parents, author, _person(facts[b"committer"][0], read)[0], when, text
    )


def _person(line: bytes, read: Callable[[bytes], str | None]) -> tuple[Person, int]:
    """Of ``Name <address> seconds zone``."""
    who, _, when = line.rpartition(b">")
    name, _, email = who.partition(b"<")
    seconds, _, zone = when.strip().partition(b" ")
    at = int(seconds) if re.fullmatch(rb"-?\d+", seconds) else 0
    names = [read(part.strip()) or part.strip().decode("utf-8", "replace") for part in (name, email)]
    return Person(names[0], names[1], _date(at, zone.decode("ascii", "replace"))), at


def _date(seconds: int, zone: str) -> str:
    """As git shows it. Spelled by hand: strftime would follow the machine's locale."""
    if not re.fullmatch(r"[+-]\d{4}", zone):
        zone = "+0000"
    minutes = int(zone[0] + "1") * (int(zone[1:3]) * 60 + int(zone[3:]))
    try:
        at = datetime.fromtimestamp(seconds, UTC) + timedelta(minutes=minutes)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{_WEEKDAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day} {at:%H:%M:%S} {at.year} {zone}"


# --- rows ------------------------------------------------------------------------------------------------------------


def file_row(path: str, text: str) -> str:
    """Phase 1: a file below its path."""
    start, end = _MARKS.get(path.rpartition(".")[2].lower() if "." in path else "", ("#", ""))
    return f"{start} File: {path}{end}\n\n{text}"


def commit_row(commit: Commit, diff: str) -> str:
    """Phase 2: a commit as ``git log -p`` shows it."""
    date = f"Date:   {commit.author.date}\n" if commit.author.date else ""
    lines = (commit.message or "").split("\n")
    message = "\n".join(f"    {line}".rstrip() for line in lines)
    return f"commit {commit.id}\nAuthor: {commit.author}\n{date}\n{message}\n\n{diff}"


def series_row(
    kind: str, tip: Commit, commits: Sequence[Commit], diff: str, files: Callable[[str], Sequence[str]]
) -> str:
    """Phase 3: a series as a pull request: what it is for, the whole change, what its later commits say, how it ended.

    :param commits: what was merged, oldest first. :param files: those that a commit touched.
    """
    number, branch, title, description, talk = {"merge": _merge_parts, "squash": _squash_parts, "linear": _run_parts}[
        kind
    ](tip, commits, files)
    first = commits[0] if commits else tip
    lines = [f"Pull request{f' #{number}' if number else ''}: {title}", f"Author: {first.author}"]
    lines += [f"Branch: {branch}"] if branch else []
    parts = ["\n".join(lines)]
    parts += [f"## Description\n\n{description}"] if description else []
    parts += [f"## Diff\n\n{diff.rstrip(chr(10))}"]
    parts += ["## Review\n\n" + "\n\n".join(talk)] if talk else []
    parts += [f"## Resolution\n\n{_end(kind, tip, len(commits))}"]
    return "\n\n".join(parts) + "\n"


_Parts = tuple[str | None, str | None, str, str, list[str]]
_Files = Callable[[str], Sequence[str]]


def _merge_parts(tip: Commit, commits: Sequence[Commit], files: _Files) -> _Parts:
    """Title and description from the merge's message, or from the first commit where it says nothing of its own."""
    pull, branch, request = _GITHUB.match(tip.subject), _BRANCH.match(tip.subject), _GITLAB.search(tip.body)
    number = pull[1] if pull else request[1] if request else None
    name = pull[2].partition("/")[2] or pull[2] if pull else branch[1] if branch else None
    body = _GITLAB.sub("", tip.body).strip("\n")
    if branch and not request and body.startswith("* "):  # the list of commits that merge.log=true adds
        body = ""
    if pull or branch:
        title, _, description = body.partition("\n")
    else:
        title, description = tip.subject, body
    first = commits[0] if commits else tip
    follows = list(commits)
    if not title.strip():
        title, description, follows = first.subject, description or first.body, follows[1:]
    elif follows and follows[0].message == f"{title}\n\n{description}".strip():
        follows = follows[1:]
    return (
        number,
        name,
        title.strip(),
        description.strip("\n"),
        [_commit_paragraph(commit, files) for commit in follows],
    )


def _squash_parts(tip: Commit, commits: Sequence[Commit], files: _Files) -> _Parts:
    """GitHub's message of a squash lists the messages of the commits, each after a star."""
    title = re.sub(r"\s*\([#!]\d+\)\s*$", "", tip.subject)
    found = re.search(r"\([#!](\d+)\)\s*$", tip.subject)
    parts = [part.strip("\n") for part in re.split(r"^\* ", tip.body, flags=re.MULTILINE)]
    if parts[0].strip() or len(parts) < 3:
        return found[1] if found else None, None, title, tip.body, []
    talk = [f"{tip.author.name}\n{_quote(part)}" for part in parts[2:]]
    return found[1] if found else None, None, title, parts[1], talk


def _run_parts(tip: Commit, commits: Sequence[Commit], files: _Files) -> _Parts:
    first = commits[0]
    description = first.body or tip.body
    return None, None, first.subject, description, [_commit_paragraph(commit, files) for commit in commits[1:]]


def _commit_paragraph(commit: Commit, files: _Files) -> str:
    touched = files(commit.id)
    more = f" and {len(touched) - _NAMED_FILES} more" if len(touched) > _NAMED_FILES else ""
    on = f" on {', '.join(touched[:_NAMED_FILES])}{more}" if touched else ""
    return f"{commit.author.name}{on}\n{_quote(commit.message or '')}"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _end(kind: str, tip: Commit, count: int) -> str:
    by = f" by {tip.committer.name}" if tip.committer.name != "GitHub" else ""  # which commits for whoever clicks
    if kind == "squash":
        return f"Merged{by} as one commit."
    return f"Merged{by} with {count} commit{'s' * (count != 1)}."
