"""One split on its way into the store: blocks in, packed rows and a ledger out."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ftlab.base.heap import collecting_seldom
from ftlab.data.ledger.ledger import FIRST, SplitLedger
from ftlab.data.packing import selection
from ftlab.data.packing.layout import Layout
from ftlab.data.packing.store import Writer
from ftlab.data.packing.tables import Indices, UnitTable, index_type, pieces
from ftlab.data.sources.blocks import Block, Location
from ftlab.data.sources.refused_rows import RefusedRows
from ftlab.data.sources.resolve import Source
from ftlab.data.tokens.block_encoder import BlockEncoder, EncodedBlock, Problem, Recipe
from ftlab.data.tokens.encoder import Counts, Encoder, Flags
from ftlab.data.tokens.left_out import kinds_of
from ftlab.data.tokens.workers import encode_in_order, worker_count
from ftlab.schema import Data

LEFT_OUT = "left out by data.max_samples or num_samples"
_SHARE = 1 << 16  # rows whose hashes are compared at a time, if
_MOST_SHARES = 1 << 8  # so many times are enough: each of them reads the hashes of all
_SECOND = "has the id of an earlier row"
_SECOND_ADVICE = (
    "Give every row its own id, name another column with data.columns.id, or say data.columns.id=null if the column is "
    "no id; data.on_invalid=drop leaves such rows out."
)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one set that go to one split.

    :param ordinals: which, in order; None is all of them. :param rows: how many.
    :param left_out: how many a limit leaves out.
    """

    source: Source
    location: Location
    ordinals: Sequence[int] | Indices | None
    rows: int
    left_out: int = 0

    def blocks(self) -> Iterator[Block]:
        if self.ordinals is None:
            yield from self.location.blocks()
            return
        wanted, taken = np.asarray(self.ordinals), 0
        for block in self.location.blocks():
            until = int(np.searchsorted(wanted, block.ordinals[-1], side="right"))
            if until > taken:
                yield block.take((wanted[taken:until] - block.ordinals[0]).tolist())
            if until == len(wanted):
                break
            taken = until

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
    """Builds one split; use once. What is held of a row until all are laid out is in files (:class:`UnitTable`)."""

    def __init__(self, name: str, parts: Sequence[Part], means: BuildContext):
        self._name, self._parts, self._means, self._data = name, parts, means, means.data
        self._ledger = SplitLedger()
        self._files: list[str] = []  # of the kept rows from each of _files_from on
        self._files_from: list[int] = []
        self._parts_from: list[int] = []  # the first kept row of each part
        self._orders: list[Indices] = []
        self._refused = RefusedRows()
        self._too_long = array("q")  # tokens of rows that were left out for it

    def build(self, folder: Path) -> SplitLedger:
        """:raises DataError: a row that stops the run. :raises Unlike: the fast path found other ids."""
        self._writer = Writer(folder)
        self._units = UnitTable(folder)
        total = sum(part.rows for part in self._parts)
        progress = self._means.progress
        bars = progress(f"preparing {self._name}", total, "rows") if progress else nullcontext()
        with collecting_seldom(), bars as bar:
            for part in self._parts:
                self._parts_from.append(len(self._units))
                self._read(part, bar)
        self._refused.check(self._ledger.rows_in)
        self._lay_out()
        self._writer.close()
        return self._ledger

    def close(self) -> None:
        """Let go of what :meth:`compare` needs."""
        self._units.close()

    def _read(self, part: Part, bar: Any) -> None:
        means = self._means
        recipe = means.recipes[part.source.name]
        workers = worker_count(self._data.workers, part.location.size() or 0)
        encode = BlockEncoder(recipe, means.encoder)
        first, seen = len(self._units), set[str]()
        if part.left_out:
            self._ledger.leave_out(LEFT_OUT, part.left_out)
        for block, encoded in encode_in_order(part.blocks(), encode, recipe, means.tokenizer, means.fast, workers):
            self._add(block, encoded, seen)
            if bar is not None:
                bar.advance(encoded.rows)
        wanted = self._data.num_samples if self._data.num_samples is not None else part.source.num_samples
        wanted = wanted if self._name == "train" and not part.left_out else None
        order = selection.repeat_units(len(self._units) - first, wanted, means.seed)
        self._orders.append(order.astype(index_type(len(self._units)), copy=False) + first)

    def _add(self, block: Block, encoded: EncodedBlock, seen: set[str]) -> None:
        self._ledger.rows_in += encoded.rows
        if encoded.names is not None:
            self._refuse_second(encoded, encoded.names, seen)
        for problem in encoded.problems:
            if problem.advice is not None and not (problem.malformed and self._data.on_invalid == "drop"):
                reason = f"{problem.reason}{problem.detail}"
                self._refused.add(block.file, problem.number, reason, problem.advice)
            if problem.too_long:
                self._too_long.append(problem.too_long)
            self._ledger.drop(problem.reason, f"{block.file}:{problem.number}", problem.tokens)
        if not self._files or self._files[-1] != block.file:
            self._files.append(block.file)
            self._files_from.append(len(self._units))
        self._writer.add(encoded.ids, encoded.trained)
        self._units.add(encoded)

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

    def _lay_out(self) -> None:
        """Count what became of the rows, and write the tables beside their tokens."""
        units, order = self._units, self._order()
        self._is_used = np.zeros(len(units), dtype=bool)
        for piece in pieces(len(order)):
            self._is_used[order[piece]] = True
        self._count_uses(len(order))
        is_text = all(self._means.recipes[part.source.name].format == "text" for part in self._parts)
        self._count_samples(is_text)
        self._count_duplicates()
        self._count_literals()
        self._count_left_out()
        self._count_tokens(order, is_text)
        layout = Layout(units.sample_starts(), units.per_unit, order, self._data, self._means.seed, is_text)
        del order  # the layout's own now, and not needed to its end
        self._write_views(layout, is_text)
        self._write_units()

    def _order(self) -> Indices:
        """The units in the order in which they are used, each as often as it is."""
        if self._name == "train" and len(self._orders) > 1:
            order = selection.mix_sources(self._orders, self._data.mix, self._data.probabilities, self._means.seed)
        else:
            order = self._orders[0] if len(self._orders) == 1 else np.concatenate(self._orders)
        self._orders = []
        return order.astype(index_type(len(self._units)), copy=False)

    def _used(self, name: str) -> Iterator[tuple[slice, Counts, NDArray[Any]]]:
        """Yield a column of the used units piece by piece: where the piece is, which units they are, their values."""
        for piece, values in self._units.pieces(name):
            is_used = self._is_used[piece]
            if is_used.all():
                yield piece, np.arange(piece.start, piece.stop), values
            else:
                of_units = values.reshape(len(is_used), -1)[is_used]
                yield piece, piece.start + np.flatnonzero(is_used), of_units.reshape(-1)

    def _count_uses(self, uses: int) -> None:
        """Rows that the mix leaves out are dropped; those that it takes again are counted."""
        used = int(np.count_nonzero(self._is_used))
        self._ledger.rows_kept, self._ledger.rows_repeated = used, uses - used
        if used == len(self._units):
            return
        for piece, full in self._units.pieces("full"):
            lengths = full.reshape(-1, self._units.per_unit).sum(1)
            for unit in np.flatnonzero(~self._is_used[piece]).tolist():
                where = self._where(piece.start + unit)
                self._ledger.drop(f"left out by data.mix={self._data.mix}", where, int(lengths[unit]))

    def _count_samples(self, is_text: bool) -> None:
        """Of the rows that are used: how long they are, how many are cut."""
        ledger, per_unit = self._ledger, self._units.per_unit
        for (_, _, full), (_, _, counts) in zip(self._used("full"), self._used("counts")):
            ledger.rows_truncated += int(np.count_nonzero((full > counts).reshape(-1, per_unit).any(1)))
        found = np.concatenate([np.empty(0, np.int32), *(full for _, _, full in self._used("full"))])
        ledger.measure(found)
        if not is_text and (self._too_long or ledger.rows_truncated):
            longest = found.reshape(-1, per_unit).max(1, initial=0)
            ledger.measure_needed(np.concatenate([longest, np.asarray(self._too_long)]))

    def _count_duplicates(self) -> None:
        """Which of the rows that are used say what an earlier one says. In shares by their hash, for those that are
        equal have one: no more than a share is in memory."""
        shares = min(1 << (len(self._units) // _SHARE).bit_length(), _MOST_SHARES)
        first: list[int] = []
        for share in range(shares):
            mine = [(np.empty(0, np.int64), np.empty(0, np.uint64))]
            for _, of_piece, values in self._used("digest"):
                is_mine = values & np.uint64(shares - 1) == share
                mine.append((of_piece[is_mine], values[is_mine]))
            units, digests = (np.concatenate(of) for of in zip(*mine))
            by_digest = np.argsort(digests, kind="stable")
            digests = digests[by_digest]
            again = np.sort(units[by_digest[1:][digests[1:] == digests[:-1]]])
            self._ledger.duplicates += len(again)
            first = sorted([*first, *again[:FIRST].tolist()])[:FIRST]
        self._ledger.duplicates_named = [self._where(unit) for unit in first]

    def _count_literals(self) -> None:
        first: list[int] = []
        for _, units, is_literal in self._used("literal"):
            self._ledger.literals += int(np.count_nonzero(is_literal))
            first += units[is_literal][: FIRST - len(first)].tolist()
        self._ledger.literals_named = [self._where(unit) for unit in first]

    def _count_left_out(self) -> None:
        """What the template leaves out of the rows that are used."""
        rows, first = Counter[int](), defaultdict[int, list[int]](list)
        for _, units, bits in self._used("left_out"):
            for value in np.unique(bits[bits > 0]).tolist():
                of_value = units[bits == value]
                rows[value] += len(of_value)
                first[value] += of_value[: FIRST - len(first[value])].tolist()
        for value in sorted(rows):
            for kind in kinds_of(value):
                found = self._ledger.left_out.setdefault(kind, {"rows": 0, "first": []})
                found["rows"] += rows[value]
                found["first"] += first[value]
        for found in self._ledger.left_out.values():
            found["first"] = [self._where(unit) for unit in sorted(found["first"])[:FIRST]]

    def compare(self, train: SplitBuilder) -> None:
        """Count the rows that train has as well, and those of which it has only the prompt. Both have been built."""
        used = np.flatnonzero(self._is_used)
        in_train, is_asked = (self._in_train(name, train) for name in ("digest", "question"))
        asks = np.concatenate([values for _, _, values in self._used("question")] or [np.empty(0, np.uint64)]) != 0
        self._ledger.in_train = {
            "rows": int(in_train.sum()), "prompts": int((is_asked & asks & ~in_train).sum()),
            "first": [self._where(unit) for unit in used[in_train][:FIRST].tolist()],
        }  # fmt: skip

    def _in_train(self, name: str, train: SplitBuilder) -> Flags:
        """Which of the used units have a value that one of train's used units has."""
        own = np.concatenate([values for _, _, values in self._used(name)] or [np.empty(0, np.uint64)])
        known, of_own = np.unique(own, return_inverse=True)
        is_there = np.zeros(len(known), dtype=bool)
        for _, _, values in train._used(name):
            is_there |= np.isin(known, values)
        found: Flags = is_there[of_own]
        return found

    def _where(self, unit: int) -> str:
        kept = self._units.read("kept", slice(unit, unit + 1))
        return f"{self._files[bisect_right(self._files_from, unit) - 1]}:{kept[0, 1]}"

    def _count_tokens(self, order: Indices, is_text: bool) -> None:
        """All tokens of the rows, as often as they are used, and those that are learned of conversations."""
        names = ("full",) if is_text else ("full", "learned")
        for name in names:
            lengths = np.empty(len(self._units), dtype=np.int32)
            for piece, of_samples in self._units.pieces(name):
                lengths[piece] = of_samples.reshape(-1, self._units.per_unit).sum(1)
            total = sum(int(lengths[order[piece]].sum(dtype=np.int64)) for piece in pieces(len(order)))
            if name == "full":
                self._ledger.tokens_in += total
                self._ledger.tokens_cut += total
            else:
                self._ledger.tokens_trained = total

    def _write_views(self, layout: Layout, is_text: bool) -> None:
        """Write where samples lie, and count the tokens there."""
        ledger, held, trained = self._ledger, 0, 0
        for bounds, units in layout.views():
            self._writer.append(bounds=bounds, units=units)
            starts, ends, skips = bounds.T
            held += int((ends - starts).sum())
            trained += int((ends - starts - skips).sum())
            # Chunks of one text; all of them are in one piece.
            follows = (units[1:] == units[:-1]) & (starts[1:] > starts[:-1]) & (starts[1:] < ends[:-1])
            ledger.tokens_repeated += int((ends[:-1] - starts[1:])[follows].sum())
        rows, members = layout.rows()
        self._writer.append(rows=rows)
        for piece in members:
            self._writer.append(members=piece)
        if is_text:
            ledger.tokens_trained = trained
        ledger.tokens_masked = held - ledger.tokens_trained - ledger.tokens_repeated
        ledger.tokens_cut -= held - ledger.tokens_repeated
        ledger.packed_rows = len(rows) - 1
        ledger.packed_capacity = ledger.packed_rows * self._data.max_length * self._units.per_unit

    def _write_units(self) -> None:
        for piece, kept in self._units.pieces("kept"):
            part = np.searchsorted(self._parts_from, np.arange(piece.start, piece.stop), side="right") - 1
            labels, prompts = (self._units.read(name, piece) for name in ("label", "prompt"))
            self._writer.append(kept=np.column_stack([part, kept]), label=labels, prompt=prompts)
