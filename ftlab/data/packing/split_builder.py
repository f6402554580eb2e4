"""One split on its way into the store: blocks in, packed rows and a ledger out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.data.ledger.ledger import FIRST, SplitLedger
from ftlab.data.packing import layout, selection
from ftlab.data.packing.store import Writer
from ftlab.data.sources.blocks import Block, Location
from ftlab.data.sources.refused_rows import RefusedRows
from ftlab.data.sources.resolve import Source
from ftlab.data.tokens.block_encoder import BlockEncoder, EncodedBlock, Problem, Recipe
from ftlab.data.tokens.encoder import Counts, Encoder
from ftlab.data.tokens.left_out import kinds_of
from ftlab.data.tokens.workers import encode_in_order, worker_count
from ftlab.schema import Data

LEFT_OUT = "left out by data.max_samples or num_samples"
_SECOND = "has the id of an earlier row"
_SECOND_ADVICE = (
    "Give every row its own id, name another column with data.columns.id, or say data.columns.id=null if the column is "
    "no id; data.on_invalid=drop leaves such rows out."
)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one set that go to one split.

    :param ordinals: which; None is all of them. :param rows: how many. :param left_out: how many a limit leaves out.
    """

    source: Source
    location: Location
    ordinals: Sequence[int] | None
    rows: int
    left_out: int = 0

    def blocks(self) -> Iterator[Block]:
        if self.ordinals is None:
            yield from self.location.blocks()
            return
        wanted = np.asarray(self.ordinals, dtype=np.int64)
        last = wanted.max(initial=-1)
        for block in self.location.blocks():
            keep = np.flatnonzero(np.isin(np.asarray(block.ordinals), wanted, assume_unique=True))
            if len(keep):
                yield block.take(keep.tolist())
            if block.ordinals[-1] >= last:
                break

    def beginning(self, rows: int) -> Part:
        """The first so many of them."""
        ordinals = (range(self.rows) if self.ordinals is None else self.ordinals)[:rows]
        return replace(self, ordinals=ordinals, rows=len(ordinals), left_out=0)


@dataclass(frozen=True)
class BuildContext:
    """The settings of a build. :param fast: whether the encoder may take the fast path. :param progress: of bars."""

    data: Data
    seed: int
    recipes: dict[str, Recipe]
    tokenizer: Any
    encoder: Encoder
    fast: bool
    progress: Any


class SplitBuilder:
    """Builds one split; use once."""

    def __init__(self, name: str, parts: Sequence[Part], means: BuildContext):
        self._name, self._parts, self._means, self._data = name, parts, means, means.data
        self._ledger = SplitLedger()
        self._blocks: list[EncodedBlock] = []
        self._files: list[str] = []  # of every kept row
        self._parts_of: list[int] = []
        self._orders: list[Counts] = []
        self._refused = RefusedRows()
        self._too_long: list[int] = []  # tokens of rows that were left out for it

    def build(self, folder: Path) -> SplitLedger:
        """:raises DataError: a row that stops the run. :raises Unlike: the fast path found other ids."""
        self._writer = Writer(folder)
        total = sum(part.rows for part in self._parts)
        progress = self._means.progress
        with progress(f"preparing {self._name}", total, "rows") if progress else nullcontext() as bar:
            for index, part in enumerate(self._parts):
                self._read(part, bar)
                self._parts_of += [index] * (len(self._files) - len(self._parts_of))
        self._refused.check(self._ledger.rows_in)
        self._close()
        return self._ledger

    def _read(self, part: Part, bar: Any) -> None:
        means = self._means
        recipe = means.recipes[part.source.name]
        workers = worker_count(self._data.workers, part.location.size() or 0)
        encode = BlockEncoder(recipe, means.encoder)
        first, seen = len(self._files), set[str]()
        if part.left_out:
            self._ledger.leave_out(LEFT_OUT, part.left_out)
        for block, encoded in encode_in_order(part.blocks(), encode, recipe, means.tokenizer, means.fast, workers):
            self._add(block, encoded, seen)
            if bar is not None:
                bar.advance(encoded.rows)
        wanted = self._data.num_samples if self._data.num_samples is not None else part.source.num_samples
        wanted = wanted if self._name == "train" and not part.left_out else None
        self._orders.append(selection.repeat_units(len(self._files) - first, wanted, means.seed) + first)

    def _add(self, block: Block, encoded: EncodedBlock, seen: set[str]) -> None:
        self._ledger.rows_in += encoded.rows
        if encoded.names is not None:
            self._refuse_second(encoded, encoded.names, seen)
        for problem in encoded.problems:
            if problem.advice is not None and not (problem.malformed and self._data.on_invalid == "drop"):
                reason = f"{problem.reason}{problem.detail}"
                self._refused.add(block.file, problem.number, reason, problem.advice)
            self._too_long += [problem.too_long] if problem.too_long else []
            self._ledger.drop(problem.reason, f"{block.file}:{problem.number}", problem.tokens)
        self._writer.add(encoded.ids, encoded.trained)
        # They are on disk now. Not a slice, which would hold all of them.
        encoded.ids, encoded.trained = np.empty(0, np.int32), np.empty(0, bool)
        self._blocks.append(encoded)
        self._files += [block.file] * len(encoded.kept)

    def _refuse_second(self, encoded: EncodedBlock, names: Sequence[str | None], seen: set[str]) -> None:
        second = []
        per_row = len(encoded.counts) // max(len(encoded.kept), 1)
        for i, name in enumerate(names):
            if name is not None and name in seen:
                ordinal, number = encoded.kept[i].tolist()
                tokens = int(encoded.full[i * per_row : (i + 1) * per_row].sum())
                problem = Problem(ordinal, number, _SECOND, tokens, True, f" ({name!r})", _SECOND_ADVICE)
                encoded.problems.append(problem)
                second.append(i)
            elif name is not None:
                seen.add(name)
        if second:
            encoded.problems.sort(key=lambda problem: problem.ordinal)
            encoded.drop_rows(second)

    def _close(self) -> None:
        joined = {
            name: np.concatenate([getattr(block, name) for block in self._blocks] or [np.empty(0, np.int64)])
            for name in ("counts", "full", "learned", "label", "digest", "question", "literal", "left_out", "prompt")
        }
        kept = np.concatenate([block.kept for block in self._blocks] or [np.empty((0, 2), np.int64)])
        per_unit = max(len(joined["counts"]) // max(len(kept), 1), 1)
        data = self._data
        order = np.concatenate([np.empty(0, np.int64), *self._orders]).astype(np.int64)
        if self._name == "train" and len(self._orders) > 1:
            order = selection.mix_sources(self._orders, data.mix, data.probabilities, self._means.seed)
        uses = np.bincount(order, minlength=len(kept))
        self._count_uses(uses, kept, joined["full"], per_unit)
        self._used, self._kept = np.flatnonzero(uses), kept
        self._digests, self._questions = (joined[name][self._used] for name in ("digest", "question"))
        literal = self._used[joined["literal"][self._used].astype(bool)]
        self._ledger.literals = len(literal)
        self._ledger.literals_named = [self._where(unit, kept) for unit in literal[:FIRST].tolist()]
        is_text = all(self._means.recipes[part.source.name].format == "text" for part in self._parts)
        self._count_samples(self._used, kept, joined, per_unit, is_text)
        self._count_left_out(joined["left_out"][self._used], kept)
        views = layout.lay_out(joined["counts"], per_unit, order, data, self._means.seed, is_text)
        self._count_tokens(views, joined, order, per_unit, is_text)
        kept = np.concatenate([np.array(self._parts_of, dtype=np.int64)[:, None], kept], axis=1)
        self._writer.close(views, kept=kept, label=joined["label"], prompt=joined["prompt"])

    def _count_samples(self, used: Counts, kept: Counts, joined: dict[str, Any], per_unit: int, is_text: bool) -> None:
        """Of the rows that are used: which say what an earlier one says, how long they are, how many are cut."""
        _, firsts = np.unique(joined["digest"][used], return_index=True)
        again = np.delete(used, firsts)
        self._ledger.duplicates = len(again)
        self._ledger.duplicates_named = [self._where(i, kept) for i in again[:FIRST].tolist()]
        full, counts = (joined[name].reshape(-1, per_unit)[used] for name in ("full", "counts"))
        self._ledger.rows_truncated = int(np.count_nonzero((full > counts).any(1)))
        self._ledger.measure(full.reshape(-1))
        if not is_text and (self._too_long or self._ledger.rows_truncated):
            self._ledger.measure_needed(np.concatenate([full.max(1, initial=0), self._too_long]))

    def _count_left_out(self, bits: Counts, kept: Counts) -> None:
        """:param bits: of every used row, what the template leaves out of it."""
        for value, count in zip(*np.unique(bits[bits > 0], return_counts=True)):
            for kind in kinds_of(int(value)):
                found = self._ledger.left_out.setdefault(kind, {"rows": 0, "first": []})
                found["rows"] += int(count)
        for kind, found in self._ledger.left_out.items():
            units = itertools.islice((u for u, b in zip(self._used, bits) if b and kind in kinds_of(int(b))), FIRST)
            found["first"] = [self._where(int(unit), kept) for unit in units]

    def compare(self, train: SplitBuilder) -> None:
        """Count the rows that train has as well, and those of which it has only the prompt. Both have been built."""
        in_train = np.isin(self._digests, train._digests)
        asked = np.isin(self._questions, train._questions) & (self._questions != 0) & ~in_train
        first = self._used[in_train][:FIRST].tolist()
        self._ledger.in_train = {
            "rows": int(in_train.sum()), "prompts": int(asked.sum()),
            "first": [self._where(unit, self._kept) for unit in first],
        }  # fmt: skip

    def _where(self, unit: int, kept: Counts) -> str:
        return f"{self._files[unit]}:{kept[unit, 1]}"

    def _count_uses(self, uses: Counts, kept: Counts, full: Counts, per_unit: int) -> None:
        """Rows that the mix leaves out are dropped; those that it takes again are counted."""
        lengths = full.reshape(-1, per_unit).sum(1)
        for unit in np.flatnonzero(uses == 0).tolist():
            self._ledger.drop(f"left out by data.mix={self._data.mix}", self._where(unit, kept), int(lengths[unit]))
        self._ledger.rows_kept = int(np.count_nonzero(uses))
        self._ledger.rows_repeated = int((uses - 1).clip(0).sum())

    def _count_tokens(
        self, views: layout.Views, joined: dict[str, Any], order: Counts, per_unit: int, is_text: bool
    ) -> None:
        ledger = self._ledger
        samples = (order[:, None] * per_unit + np.arange(per_unit)).reshape(-1)
        full = int(joined["full"][samples].sum())
        starts, ends, skips = views.bounds.T if len(views.bounds) else np.empty((3, 0), np.int64)
        held = int((ends - starts).sum())
        follows = (views.units[1:] == views.units[:-1]) & (starts[1:] > starts[:-1]) & (starts[1:] < ends[:-1])
        ledger.tokens_repeated = int((ends[:-1] - starts[1:])[follows].sum())
        trained = int((ends - starts - skips).sum()) if is_text else int(joined["learned"][samples].sum())
        ledger.tokens_trained = trained
        ledger.tokens_masked = held - trained - ledger.tokens_repeated
        ledger.tokens_in += full
        ledger.tokens_cut += full - (held - ledger.tokens_repeated)
        ledger.packed_rows = len(views.rows) - 1
        ledger.packed_capacity = ledger.packed_rows * self._data.max_length * per_unit
