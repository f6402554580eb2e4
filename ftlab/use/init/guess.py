"""What a file's rows are: each format's converter tried on the first rows, with the columns as they are and renamed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.data.formats import COLUMNS, CONVERTERS, Columns, Prompt, Record, RowError
from ftlab.data.sources.resolve import STAGE_FORMATS
from ftlab.data.sources.rows import Row
from ftlab.use.init.words import ALTERNATIVES, SYNONYMS, guess_tags

ENOUGH = 0.5  # share of rows that a format must convert to be one that fits
NEAR = 3  # formats that are named where none fits

# Of formats that fit equally, the first is taken: what most people mean by such columns.
ORDER = (
    "messages", "sharegpt", "alpaca", "prompt_completion", "instruction", "preference", "kto", "prompts", "text",
)  # fmt: skip
# The stages that a format is for, the commonest first.
STAGES = {
    format_: [stage for stage in ("sft", "dpo", "rm", "orpo", "kto", "grpo", "ppo", "pt")
              if format_ in STAGE_FORMATS[stage]]
    for format_ in ORDER
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Guess:
    """One way to read the rows.

    :param columns: what ``data.columns`` has to say. :param tags: the same of ``data.tags``.
    :param records: by place of the row, of those that convert. :param problems: place of the row -> why it does not.
    :param used: columns that are read. :param unused: others that hold anything.
    :param known: how many columns were found, also by rows that do not convert.
    """

    format: str
    columns: dict[str, str | None]
    tags: dict[str, str]
    records: dict[int, Record]
    problems: dict[int, str]
    used: list[str]
    unused: list[str]
    known: int

    @property
    def rows(self) -> int:
        return len(self.records) + len(self.problems)

    @property
    def share(self) -> float:
        return len(self.records) / max(self.rows, 1)

    @property
    def fit(self) -> float:
        """Rows that convert, times columns that are used: to drop few rows but leave half of each unread is no better
        than the other way round. Of prompts, which do without answers, those that lack one among answered ones do not
        count: other formats drop such rows, and that speaks for neither."""
        answered = [isinstance(record, Prompt) and record.answer is not None for record in self.records.values()]
        good = sum(answered) or len(self.records)
        return good / max(self.rows, 1) * len(self.used) / max(len(self.used) + len(self.unused), 1)

    @property
    def renamed(self) -> int:
        return len(self.columns) + len(self.tags)

    def reasons(self) -> list[tuple[str, int, int]]:
        """Why rows do not convert: reason, how many, and the place of the first; the commonest first."""
        counts = Counter(self.problems.values())
        first = {reason: place for place, reason in reversed(self.problems.items())}
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def guesses(rows: Sequence[Row], formats: Sequence[str], columns: Mapping[str, str | None]) -> list[Guess]:
    """The best way to read the rows in each format, the best format first.

    :param columns: what the user says of them already.
    """
    best = []
    for format_ in formats:
        ways = [_try_reading(rows, format_, *way) for way in _readings(rows, format_, dict(columns))]
        best.append(max(ways, key=lambda guess: (guess.fit, guess.known if not guess.records else 0, -guess.renamed)))
    return sorted(best, key=_merit, reverse=True)


def _merit(guess: Guess) -> tuple[float, int, bool, int]:
    known = guess.known if not guess.records else 0
    return round(guess.fit, 6), known, not guess.renamed, -ORDER.index(guess.format)


def select_fitting(found: Sequence[Guess]) -> list[Guess]:
    """Return the guesses that convert enough rows; of several that give the same records the first."""
    different: list[Guess] = []
    for guess in found:
        if guess.share >= ENOUGH and all(guess.records != one.records for one in different):
            different.append(guess)
    return different


def tied_guesses(found: Sequence[Guess]) -> list[Guess]:
    """Return the best guess, and those that fit as well but mean something else."""
    return [guess for guess in found if round(guess.fit, 6) == round(found[0].fit, 6)]


class _RecordingRow(dict[str, Any]):
    """A row that notes which of its columns are read, and hold anything."""

    def __init__(self, row: Mapping[str, Any]):
        super().__init__(row)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        if value is not None:
            self.read.add(key)
        return value


def _try_reading(rows: Sequence[Row], format_: str, columns: dict[str, str | None], tags: dict[str, str]) -> Guess:
    records: dict[int, Record] = {}
    problems: dict[int, str] = {}
    filled: dict[str, None] = {}
    read: set[str] = set()
    found: set[str] = set()
    for place, row in enumerate(rows):
        noted = _RecordingRow({} if row.problem is not None else row.value)
        filled |= {name: None for name, value in noted.items() if value is not None}
        try:
            if row.problem is not None:
                raise RowError(row.problem)
            records[place] = CONVERTERS[format_](Columns(noted, columns, tags))
            read |= noted.read
        except RowError as error:
            problems[place] = str(error)
        found |= noted.read
    named = columns.get("id", "id")  # names a row, and says nothing
    used = [name for name in filled if name in read]
    unused = [name for name in filled if name not in read and name != named]
    return Guess(format_, columns, tags, records, problems, used, unused, len(found))


# --- ways to name the columns ----------------------------------------------------------------------------------------


def _readings(
    rows: Sequence[Row], format_: str, given: dict[str, str | None]
) -> Iterator[tuple[dict[str, str | None], dict[str, str]]]:
    """``columns`` and ``tags`` to try: as they are, then with synonyms for each set of alternatives."""
    has = list(dict.fromkeys(name for row in rows if row.problem is None for name in row.value))
    values = [row.value for row in rows if row.problem is None]
    known = {column: user for column, user in given.items() if column in COLUMNS[format_]}
    seen = []
    for columns in ({}, *(_match_columns(format_, way, has) for way in _alternatives(format_))):
        tags = guess_tags(values, format_, {**columns, **known})
        for way in ((({**columns, **known}), {}), ({**columns, **known}, tags)):
            if way not in seen:
                seen.append(way)
                yield way


def _alternatives(format_: str) -> Iterator[tuple[str, ...]]:
    """Columns of a format, one of each group of spellings."""
    groups = [[column for column in group if column in COLUMNS[format_]] for group in ALTERNATIVES]
    several = [group for group in groups if len(group) > 1]
    for chosen in itertools.product(*several):
        left_out = {column for group in several for column in group} - set(chosen)
        if "instruction" in left_out:
            left_out |= {"input", "history"}  # they belong to it
        yield tuple(column for column in COLUMNS[format_] if column not in left_out)


def _match_columns(format_: str, way: Sequence[str], has: Sequence[str]) -> dict[str, str | None]:
    """The user's columns by the format's: the same name first, then a synonym that nothing else claims."""
    columns: dict[str, str | None] = {}
    taken = {column for column in COLUMNS[format_] if column in has}
    plain = {_plain(name): name for name in reversed(has)}
    for column in way:
        if column in has:
            continue
        for word in (column, *SYNONYMS.get(column, ())):
            user = plain.get(word)
            is_question = user == "input" and column in ("instruction", "prompt")  # no context where no question is
            if word == "a" and "q" not in plain:
                continue
            if user is not None and (user not in taken or is_question):
                columns[column] = user
                taken.add(user)
                if is_question and "input" in COLUMNS[format_]:
                    columns["input"] = None
                break
    return columns


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
