"""A block of rows -> samples: converted, rendered, encoded and cut, in whichever process has time for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import numpy as np

from ftlab.data.formats import (
    CONVERTERS,
    Columns,
    Conversation,
    Labelled,
    Message,
    Pair,
    Prompt,
    Record,
    RowError,
    Text,
)
from ftlab.data.formats.records import prompt_hash
from ftlab.data.sources.blocks import Block
from ftlab.data.tokens.encoder import Counts, Encoder, Flags, Ids, Spans
from ftlab.data.tokens.left_out import LeftOut
from ftlab.data.tokens.literals import Literals
from ftlab.data.tokens.templates import Failure, Rendered, Template, conversations
from ftlab.errors import NotReadyError

MEND = "Mend the row, name your columns with data.columns, or leave such rows out with data.on_invalid=drop."
_TOO_LONG = "Raise data.max_length, or choose data.truncation: drop, left, right or turns."


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a row becomes.

    :param begin, end: ids of the tokens before a text's first, if the tokenizer writes one there, and after its last.
    :param merges: whether turns of one side in a row are joined.
    :param literals: special tokens that are text where a row holds them.
    :param template: of conversations; None for plain text.
    """

    format: str
    columns: dict[str, str | None]
    tags: dict[str, str]
    template: Template | None
    train_on: str
    truncation: str
    max_length: int
    end: int
    begin: int | None = None
    literals: tuple[str, ...] = ()
    merges: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason why one row is not used.

    :param tokens: how many it had, as far as it came. :param malformed: whether ``data.on_invalid`` decides about it.
    :param detail: what belongs to this row alone, and so does not group with others'.
    :param too_long: tokens of its longest sample, if that was more than there may be.
    :param advice: what to do about it; None where leaving the row out is what was asked for.
    """

    ordinal: int
    number: int
    reason: str
    tokens: int = 0
    malformed: bool = True
    detail: str = ""
    advice: str | None = MEND
    too_long: int = 0


@dataclass(slots=True)
class EncodedBlock:
    """What became of a block. U rows that are kept, S samples: one for each row, or two (chosen, rejected), T tokens.

    :param kept: int64, shape (U, 2): ordinal and number of each row. :param label: int8, shape (U,): KTO's label.
    :param digest: uint64, shape (U,): equal for rows that say the same. :param question: uint64, shape (U,): equal for
        rows that ask the same, 0 for plain text. :param literal: bool, shape (U,): which rows spell special tokens out.
    :param left_out: uint16, shape (U,): what the template leaves out, as :meth:`LeftOut.bits` has it.
    :param prompt: int64, shape (U,): of a pair, how many tokens both samples begin with, none of them learned; of a
        labelled answer, those before the first that is learned; else 0.
    :param names: the rows' own ids, if any has.
    :param counts: tokens kept of each sample. :param full: tokens before the cut. :param learned: trained tokens.
    """

    rows: int
    kept: Counts
    label: np.ndarray
    digest: np.ndarray
    question: np.ndarray
    literal: np.ndarray
    left_out: np.ndarray
    prompt: Counts
    names: list[str | None] | None
    ids: Ids
    trained: Flags
    counts: Counts
    full: Counts
    learned: Counts
    problems: list[Problem]

    def drop_rows(self, rows: Sequence[int]) -> None:
        """Return the block without some of the rows that were kept."""
        keep = np.ones(len(self.kept), dtype=bool)
        keep[list(rows)] = False
        samples = np.repeat(keep, len(self.counts) // len(keep))
        tokens = np.repeat(samples, self.counts)
        self.kept, self.label = self.kept[keep], self.label[keep]
        self.digest, self.question = self.digest[keep], self.question[keep]
        self.literal, self.left_out, self.prompt = self.literal[keep], self.left_out[keep], self.prompt[keep]
        self.ids, self.trained = self.ids[tokens], self.trained[tokens]
        self.counts, self.full, self.learned = self.counts[samples], self.full[samples], self.learned[samples]


@dataclass(slots=True)
class _Draft:
    """A row on its way. :param rendered: text and trained spans of each sample. :param full: tokens before any cut."""

    ordinal: int
    number: int
    record: Record
    name: str | None
    rendered: list[tuple[str, Spans]]
    digest: int
    question: int
    is_literal: bool
    left_out: int
    ids: list[Ids] = field(default_factory=list)
    trained: list[Flags] = field(default_factory=list)
    full: list[int] = field(default_factory=list)


class BlockEncoder:
    """Blocks of one data set -> samples."""

    def __init__(self, recipe: Recipe, encoder: Encoder):
        self.recipe, self._encoder = recipe, encoder
        self._literals = Literals(recipe.literals)
        self._left_out = None if recipe.template is None else LeftOut(recipe.template)

    def __call__(self, block: Block) -> EncodedBlock:
        problems: list[Problem] = []
        drafts = self._drafts(block, problems)
        self._encode(drafts)
        kept = []
        for draft in drafts:
            for i in range(len(draft.ids)):
                draft.full.append(len(draft.ids[i]))
            try:
                problem = self._fit(draft)
            except RowError as error:  # the template refuses what is left of it
                problem = Problem(draft.ordinal, draft.number, str(error), sum(draft.full))
            if problem is None:
                kept.append(draft)
            else:
                problems.append(problem)
        problems.sort(key=lambda problem: problem.ordinal)
        return self._assemble(kept, problems, len(block))

    def _drafts(self, block: Block, problems: list[Problem]) -> list[_Draft]:
        convert = CONVERTERS[self.recipe.format]
        rows: list[tuple[int, int, str | None, Record, Record]] = []
        for ordinal, row in zip(block.ordinals, block.rows()):
            try:
                if row.problem is not None:
                    raise RowError(row.problem)
                columns = Columns(row.value, self.recipe.columns, self.recipe.tags, self.recipe.merges)
                given = convert(columns)
                rows.append((ordinal, row.number, columns.id, given, self._literals.kept_apart(given)))
            except RowError as error:
                problems.append(Problem(ordinal, row.number, str(error)))
        drafts = []
        for (ordinal, number, name, given, record), rendered in zip(rows, self._render([row[-1] for row in rows])):
            if isinstance(rendered, NotReadyError):  # the template does not end
                raise NotReadyError(f"{block.file}, row {number}: {rendered}")
            if isinstance(rendered, RowError):
                problems.append(Problem(ordinal, number, str(rendered)))
                continue
            hashes = _digest(record, rendered), prompt_hash(given) or 0
            left_out = 0 if self._left_out is None else self._left_out.bits(record, [text for text, _ in rendered])
            drafts.append(_Draft(ordinal, number, record, name, rendered, *hashes, record is not given, left_out))
        return drafts

    def _render(self, records: Sequence[Record]) -> list[list[tuple[str, Spans]] | Failure]:
        """Of each record, the text of its samples with what is trained of it; or why the template does not write it."""
        template = self.recipe.template
        if template is None:
            return [[(record.text, [(0, len(record.text))])] for record in records if isinstance(record, Text)]
        asked = [Conversation(of[0], of[1]) for record in records for _, of in conversations(record)]
        if self.recipe.format == "prompts":
            return [text if isinstance(text, Exception) else [(text, [])] for text in template.prompts(asked)]
        found: list[list[tuple[str, Spans]] | Failure] = []
        rendered = iter(template.render_all(asked))
        for record in records:
            samples = list(itertools.islice(rendered, 2 if isinstance(record, Pair) else 1))
            failure = next((one for one in samples if isinstance(one, Exception)), None)
            whole = [one for one in samples if isinstance(one, Rendered)]
            found.append(failure or [(one.text, self._spans(one, record)) for one in whole])
        return found

    def _spans(self, rendered: Rendered, record: Record) -> Spans:
        if isinstance(record, Pair | Labelled):
            after = len(record.prompt)
            return [span for span, turn in zip(rendered.spans, rendered.turns) if turn >= after]
        assert isinstance(record, Conversation)
        if self.recipe.train_on == "all":
            return [(0, len(rendered.text))]
        if self.recipe.train_on == "last":
            return rendered.spans[-1:]
        if self.recipe.train_on == "by_message" and record.trains is not None:
            return [span for span, turn in zip(rendered.spans, rendered.turns) if record.trains[turn]]
        return rendered.spans

    def _encode(self, drafts: Sequence[_Draft]) -> None:
        samples = [sample for draft in drafts for sample in draft.rendered]
        found = self._encoder.encode([text for text, _ in samples], [spans for _, spans in samples])
        start = 0
        counts = iter(found.counts.tolist())
        is_text = self.recipe.format == "text"
        for draft in drafts:
            draft.ids, draft.trained = [], []
            for _ in draft.rendered:
                end = start + next(counts)
                ids, trained = found.ids[start:end], found.trained[start:end]
                if is_text:
                    first = [] if self.recipe.begin is None else [self.recipe.begin]
                    ids = np.concatenate([np.array(first, np.int32), ids, np.array([self.recipe.end], np.int32)])
                    trained = np.ones(len(ids), dtype=bool)
                else:
                    trained[:1] = False  # nothing precedes it
                draft.ids.append(ids)
                draft.trained.append(trained)
                start = end

    def _fit(self, draft: _Draft) -> Problem | None:
        """Cut what is too long; why the row cannot be used, if it cannot."""
        longest, limit, policy = max(draft.full), self.recipe.max_length, self.recipe.truncation
        if longest > limit and not isinstance(draft.record, Text):
            if policy == "error":
                reason, detail = f"longer than data.max_length={limit}", f": {longest} tokens"
                return self._problem(draft, reason, detail, _TOO_LONG)
            if policy == "drop" or (policy == "right" and isinstance(draft.record, Prompt)):
                return self._problem(draft, f"longer than data.max_length={limit}")
            if policy == "right":
                _cut_right(draft, limit)
            elif not self._shorten(draft):
                return self._problem(draft, f"its last exchange is longer than data.max_length={limit}")
        if not isinstance(draft.record, Prompt) and not all(trained.any() for trained in draft.trained):
            within = f"nothing to learn within data.max_length={limit}"
            return self._problem(draft, within if longest > limit else "nothing to learn from")
        return None

    def _problem(self, draft: _Draft, reason: str, detail: str = "", advice: str | None = None) -> Problem:
        too_long = max(draft.full) if max(draft.full) > self.recipe.max_length else 0
        return Problem(draft.ordinal, draft.number, reason, sum(draft.full), False, detail, advice, too_long)

    def _shorten(self, draft: _Draft) -> bool:
        """Leave out the oldest turns, and under ``left`` the beginning of the oldest question left, until it fits."""
        record = draft.record
        turns = _turn_starts(record)

        def without(count: int) -> _Draft:
            return self._encode_again(draft, _without_turns(record, turns, count))

        count = _bisect(1, len(turns) - 1, lambda n: self._fits(without(n)))
        if count is not None:
            shorter = without(count)
        elif self.recipe.truncation == "left" and turns:
            last = _without_turns(record, turns, len(turns) - 1)
            question = _messages(last)[_turn_starts(last)[0]]["content"]
            cut = _bisect(
                1, len(question) - 1, lambda n: self._fits(self._encode_again(draft, _without_start(last, n)))
            )
            if cut is None:
                return False
            shorter = self._encode_again(draft, _without_start(last, cut))
        else:
            return False
        draft.ids, draft.trained = shorter.ids, shorter.trained
        return True

    def _encode_again(self, draft: _Draft, record: Record) -> _Draft:
        (rendered,) = self._render([record])
        if isinstance(rendered, Exception):
            raise rendered
        again = replace(draft, record=record, rendered=rendered)
        self._encode([again])
        return again

    def _fits(self, draft: _Draft) -> bool:
        return max(map(len, draft.ids)) <= self.recipe.max_length

    def _assemble(self, kept: Sequence[_Draft], problems: list[Problem], rows: int) -> EncodedBlock:
        ids = [ids for draft in kept for ids in draft.ids]
        trained = [trained for draft in kept for trained in draft.trained]
        is_label = [draft.record.label if isinstance(draft.record, Labelled) else False for draft in kept]
        return EncodedBlock(
            rows=rows,
            kept=np.array([(draft.ordinal, draft.number) for draft in kept], dtype=np.int64).reshape(-1, 2),
            label=np.array(is_label, dtype=np.int8),
            digest=np.array([draft.digest for draft in kept], dtype=np.uint64),
            question=np.array([draft.question for draft in kept], dtype=np.uint64),
            literal=np.array([draft.is_literal for draft in kept], dtype=bool),
            left_out=np.array([draft.left_out for draft in kept], dtype=np.uint16),
            prompt=np.array([_prompt_length(draft) for draft in kept], dtype=np.int64),
            names=[draft.name for draft in kept] if any(draft.name is not None for draft in kept) else None,
            ids=np.concatenate(ids) if ids else np.empty(0, np.int32),
            trained=np.concatenate(trained) if trained else np.empty(0, bool),
            counts=np.array([len(part) for part in ids], dtype=np.int64),
            full=np.array([full for draft in kept for full in draft.full], dtype=np.int64),
            learned=np.array([np.count_nonzero(part) for part in trained], dtype=np.int64),
            problems=problems,
        )


def _digest(record: Record, rendered: Sequence[tuple[str, Spans]]) -> int:
    found = blake2b(digest_size=8)
    for text, _ in rendered:
        found.update(text.encode())
        found.update(b"\0")
    if isinstance(record, Labelled):
        found.update(bytes([record.label]))
    if isinstance(record, Prompt):
        found.update(repr(record.answer).encode())
    return int.from_bytes(found.digest(), "little")


def _prompt_length(draft: _Draft) -> int:
    """How many tokens at their start the samples of a row have in common and do not learn; 0 where none are paired."""
    if not isinstance(draft.record, Pair | Labelled):
        return 0
    length = min(int(trained.argmax()) for trained in draft.trained)
    chosen, rejected = draft.ids[0], draft.ids[-1]
    differ = chosen[:length] != rejected[:length]
    return int(differ.argmax()) if differ.any() else length


def _cut_right(draft: _Draft, limit: int) -> None:
    """The first ``limit`` tokens, less those at the end that lead to nothing learned: no half of a turn's header stays.

    No end token is invented: a cut answer does not teach the model to stop.
    """
    for i, trained in enumerate(draft.trained):
        end = min(len(trained), limit)
        if len(trained) > limit:
            learned = np.flatnonzero(trained[:limit])
            end = int(learned[-1]) + 1 if len(learned) else 0
        draft.ids[i], draft.trained[i] = draft.ids[i][:end], trained[:end]


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The least number from ``low`` to ``high`` for which a condition holds that, once it holds, goes on to."""
    if low > high or not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _messages(record: Record) -> list[Message]:
    """What may be shortened: a conversation, or what comes before the answers."""
    assert not isinstance(record, Text)
    return record.messages if isinstance(record, Conversation | Prompt) else record.prompt


def _turn_starts(record: Record) -> list[int]:
    """Where the exchanges begin: at every question of the user."""
    return [i for i, message in enumerate(_messages(record)) if message["role"] == "user"]


def _with_messages(record: Record, messages: list[Message]) -> Record:
    assert not isinstance(record, Text)
    if isinstance(record, Conversation | Prompt):
        return replace(record, messages=messages)
    return replace(record, prompt=messages)


def _without_turns(record: Record, turns: Sequence[int], count: int) -> Record:
    """Without the oldest ``count`` exchanges; what stands before the first (the system message) stays."""
    messages = _messages(record)
    shorter = _with_messages(record, [*messages[: turns[0]], *messages[turns[count] :]])
    if isinstance(shorter, Conversation) and shorter.trains is not None:
        return replace(shorter, trains=[*shorter.trains[: turns[0]], *shorter.trains[turns[count] :]])
    return shorter


def _without_start(record: Record, count: int) -> Record:
    """Without the first ``count`` characters of the first question."""
    messages = list(_messages(record))
    first = _turn_starts(record)[0]
    messages[first] = {**messages[first], "content": messages[first]["content"][count:]}
    return _with_messages(record, messages)
