"""The three data sets of the curriculum: source files, commits, pull requests."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from generator.code import SourceFile, source_file
from generator.code_types import Edit
from generator.files import JsonRow, write_jsonl
from generator.words import NAMES

SEED = 20240
_START = datetime(2021, 1, 4, 8, 0, 0)
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_VALIDATION_ROWS = 10


@dataclass(frozen=True)
class Change:
    """A file before and after an edit, and the text of the row that shows it."""

    path: str
    before: str
    after: str
    text: str


def unified_diff(path: str, before: str, after: str) -> str:
    """The change of one file as ``git diff`` shows it."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{path}", f"b/{path}"
    )
    return f"diff --git a/{path} b/{path}\n" + "".join(lines)


def _person(name: str) -> str:
    return f"{name} <{name.lower()}@example.org>"


def _date(rng: Random) -> str:
    # Spelled by hand: strftime would follow the machine's locale.
    when = _START + timedelta(seconds=rng.randrange(3 * 365 * 24 * 3600))
    day, month = _WEEKDAYS[when.weekday()], _MONTHS[when.month - 1]
    return f"{day} {month} {when.day} {when:%H:%M:%S} {when.year} +0000"


def _edited(rng: Random) -> tuple[SourceFile, tuple[Edit, ...]]:
    """A file and the two edits of one of its functions, in a drawn order."""
    file = source_file(rng)
    function = rng.choice(file.functions)
    return file, tuple(rng.sample(function.edits, 2))


def source_row(rng: Random) -> str:
    """Phase 1: a source file below its path."""
    file = source_file(rng, fewest=4, most=6)
    return f"{file.language.comment} File: {file.path}\n\n{file.text}"


def commit(rng: Random) -> Change:
    """Phase 2: a commit of one edit."""
    file, (edit, _) = _edited(rng)
    before = file.text
    after = file.apply(before, edit)
    diff = unified_diff(file.path, before, after)
    author, date = rng.choice(NAMES), _date(rng)
    message = f"    {file.fill(edit.subject)}\n\n    {file.fill(edit.body)}"
    digest = hashlib.sha1(f"{author} {date} {diff}".encode()).hexdigest()
    text = f"commit {digest}\nAuthor: {_person(author)}\nDate:   {date}\n\n{message}\n\n{diff}"
    return Change(file.path, before, after, text)


def pull_request(rng: Random) -> tuple[Change, Change]:
    """Phase 3: a pull request. Returns the proposed change (with the row's text) and the one that the review added."""
    file, (proposed, wanted) = _edited(rng)
    before = file.text
    middle = file.apply(before, proposed)
    after = file.apply(middle, wanted)
    first, second = unified_diff(file.path, before, middle), unified_diff(file.path, middle, after)
    author, reviewer, other = rng.sample(NAMES, 3)
    line = 1 + middle[: middle.index(file.fill(wanted.old))].count("\n")
    subject = file.fill(proposed.subject)
    branch = "-".join(word for word in subject.lower().replace("'", "").split()[:4])
    praise = rng.choice(("Looks good to me otherwise.", "The rest reads well.", "Thank you, a clear change."))
    answer = rng.choice(("Good point, done in a second commit.", "You are right, it is changed.", "Done, see below."))
    text = (
        f"Pull request #{rng.randint(12, 980)}: {subject}\n"
        f"Author: {_person(author)}\nBranch: {branch}\n\n"
        f"## Description\n\n{file.fill(proposed.body)}\nTouches only `{file.path}`.\n\n"
        f"## Diff\n\n{first}\n"
        f"## Review\n\n{reviewer} on {file.path}:{line}\n> {file.fill(wanted.review)}\n\n"
        f"{author}\n> {answer}\n\n{other}\n> {praise}\n\n"
        f"## Resolution\n\nMerged by {reviewer} with one more commit: {file.fill(wanted.subject)}.\n\n{second}"
    )
    return Change(file.path, before, middle, text), Change(file.path, middle, after, text)


_PHASES = (
    ("phase1_foundation", 120, source_row),
    ("phase2_evolution", 100, lambda rng: commit(rng).text),
    ("phase3_pr_mastery", 60, lambda rng: pull_request(rng)[0].text),
)


def phase_random(name: str, attempt: int) -> Random:
    """The random stream of one attempt at a row; repeated rows are passed over, so attempts may outnumber rows."""
    return Random(f"{name} {attempt} {SEED}")


def write_curriculum(folder: Path) -> Iterator[tuple[Path, int]]:
    """Write the three phases with their validation rows; yields each file with its number of rows."""
    for name, size, make in _PHASES:
        rows: list[JsonRow] = []
        seen: set[str] = set()
        attempt = 0
        while len(rows) < size + _VALIDATION_ROWS:
            text = make(phase_random(name, attempt))
            attempt += 1
            if text not in seen:
                seen.add(text)
                rows.append({"training_content": text})
        for path, part in (
            (folder / f"{name}.jsonl", rows[:size]),
            (folder / f"{name}.validation.jsonl", rows[size:]),
        ):
            yield path, write_jsonl(path, part)
