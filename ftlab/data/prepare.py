"""The whole path from sources to packed rows, with its ledger; found again when nothing has changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ftlab.base.progress import Progress
from ftlab.data import duplicates
from ftlab.data.formats import COLUMNS, CONVERTERS, Columns, Record, RowError
from ftlab.data.ledger.ledger import Ledger, SplitLedger
from ftlab.data.packing import selection
from ftlab.data.packing.split_builder import BuildContext, Part, SplitBuilder
from ftlab.data.packing.store import PackedRows, read_split
from ftlab.data.packing.tables import Indices
from ftlab.data.row_cache import count_rows
from ftlab.data.sources.refused_rows import RefusedRows
from ftlab.data.sources.resolve import STAGE_FORMATS, VALIDATION, Source
from ftlab.data.sources.rows import Row
from ftlab.data.tokens.block_encoder import MEND, Recipe
from ftlab.data.tokens.encoder import Encoder, FastPathMismatch
from ftlab.data.tokens.literals import begin_token, special_tokens
from ftlab.data.tokens.templates import Template
from ftlab.errors import DataError
from ftlab.rundir import seals
from ftlab.rundir.files import move_folder
from ftlab.rundir.names import DATA_SEAL
from ftlab.schema import Data

Parts = dict[str, list[Part]]
_LEDGER = "ledger.json"
_MEND_GOLDEN = (
    "Mend the row, say what golden rows are with data.golden.format (prompts: answers are optional) and "
    "data.golden.columns, or leave such rows out with data.on_invalid=drop."
)


@dataclass
class Prepared:
    """The packed rows of every split, as a trainer takes them, and the ledger of all source rows.

    :param rows: packed rows by split. :param cached: whether an earlier preparation was found.
    :param damaged: the file for which an earlier preparation could not be used.
    """

    rows: dict[str, PackedRows]
    ledger: Ledger
    cached: bool
    damaged: str | None = None

    @property
    def train(self) -> PackedRows:
        return self.rows["train"]

    @property
    def validation(self) -> PackedRows | None:
        return self.rows.get("validation")


def split_parts(sources: Sequence[Source], data: Data, seed: int, progress: Progress | None = None) -> Parts:
    """Assign the rows of each data set to splits, those that are the same to the same one.

    Rows are counted, once as long as a file is the same, and read only where some are held out; of a stream, which
    would be fetched twice, not then.
    """
    parts: Parts = {}
    for source in sources:
        for split, location in source.splits.items():
            count = count_rows(location, data.cache)
            if split != "train":
                parts.setdefault(split, []).append(Part(source, location, None, count))
                continue
            limit = data.num_samples if data.num_samples is not None else source.num_samples
            drawn = data.model_copy(update={"num_samples": limit})
            together = None if location.size() is None else _Together(source, location, count, data.cache, progress)
            found = selection.select_rows(count, drawn, seed, set(source.splits), together)
            sizes = {name: count if ordinals is None else len(ordinals) for name, ordinals in found.items()}
            for name, ordinals in found.items():
                left_out = count - sum(sizes.values()) if name == "train" else 0
                parts.setdefault(name, []).append(Part(source, location, ordinals, sizes[name], left_out))
    if data.split.golden == VALIDATION and "golden" not in parts and "validation" in parts:
        parts["golden"] = parts["validation"]
    return parts


class _Together:
    """Keeps duplicates on one side of a split. Rows are read when it is first asked."""

    def __init__(self, *of_rows: Any):
        self._of_rows = of_rows
        self._hashes: duplicates.Hashes | None = None

    def __call__(self, places: Sequence[int], rows: Indices, draw: random.Random) -> Sequence[int]:
        if self._hashes is None:
            self._hashes = duplicates.row_hashes(*self._of_rows)
        return duplicates.keep_groups_whole(places, self._hashes[rows], draw)


@dataclass(frozen=True, slots=True)
class Example:
    """A good row of a split. :param part: index of its part. :param ordinal: its place in the part's location.
    :param row: as the file has it."""

    part: int
    ordinal: int
    where: str
    record: Record
    row: Any


def examples(parts: Sequence[Part]) -> Iterator[Example]:
    """Yield the good rows of a split lazily, in order."""
    for index, part in enumerate(parts):
        for block in part.blocks():
            for ordinal, row in zip(block.ordinals, block.rows()):
                try:
                    if row.problem is None:
                        record = _convert(part.source, row.value)
                        yield Example(index, ordinal, f"{block.file}:{row.number}", record, row.value)
                except RowError:
                    continue


def check_first_rows(sources: Sequence[Source], data: Data, count: int = 200) -> None:
    """Convert the first rows of each split, so that a wrong format is heard of before anything heavy is imported.

    :raises DataError: under ``data.on_invalid=error``, a row that is malformed.
    """
    if data.on_invalid == "drop":
        return
    for source in sources:
        for split, location in source.splits.items():
            # Golden rows are few, and each is asked: all of them are read, unless they would be fetched for it.
            reads_all = split == "golden" and location.size() is not None
            advice = _MEND_GOLDEN if split == "golden" else MEND
            refused, seen = RefusedRows(), 0
            for block in location.blocks(count):
                for row in block.rows():
                    try:
                        if row.problem is not None:
                            raise RowError(row.problem)
                        _convert(source, row.value)
                    except RowError as error:
                        hint = "" if refused.count else _other_format_hint(row, source.format, split)
                        refused.add(block.file, row.number, str(error), advice, hint)
                seen += len(block)
                if not refused.count and not reads_all:  # where one is wrong the rest is read too, to say how many are
                    break
            refused.check(seen)


def _other_format_hint(row: Row, tried: str, split: str) -> str:
    """The sentence that says which other format has a place for every column of a row; empty if none has."""
    if row.problem is not None:
        return ""
    others = [name for name in CONVERTERS if name != tried and not (split == "golden" and name == "text")]
    for name in others:
        if isinstance(row.value, Mapping) and set(row.value) <= set(COLUMNS[name]):
            try:
                CONVERTERS[name](Columns(row.value, {}))
            except RowError:
                continue
            if split == "golden":
                without = " (answers are optional)" if name == "prompts" else ""
                return f" As data.golden.format={name} it can be read{without}."
            stages = [stage for stage, formats in STAGE_FORMATS.items() if name in formats]
            return f" As data.format={name} it can be read: rows for stage={' or '.join(stages)}."
    return ""


def _convert(source: Source, row: Any) -> Record:
    return CONVERTERS[source.format](Columns(row, source.columns, source.tags, source.merges))


def prepare(
    sources: Sequence[Source],
    parts: Parts,
    data: Data,
    seed: int,
    template: Template | None,
    tokenizer: Any,
    progress: Progress | None = None,
) -> Prepared:
    """Encode, cut or chunk, and pack every split, or find it done already.

    :param template: for conversations; None for plain text. :param progress: ``(description, total, unit)`` -> a bar.
    :raises DataError: a malformed row under ``data.on_invalid=error``; no row left to train on.
    """
    recipes = _recipes(sources, data, template, tokenizer)
    fingerprints = {source.name: _fingerprints(source) for source in sources}

    def make(folder: Path) -> Prepared:
        # The encoder looks through the whole vocabulary: nothing to do where the result is found.
        means = BuildContext(data, seed, recipes, tokenizer, Encoder(tokenizer), True, progress)
        return _make(folder, parts, means, fingerprints)

    if data.cache is None:
        temporary = tempfile.mkdtemp(prefix="ftlab-data-")
        try:
            prepared = make(Path(temporary) / "data")
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        weakref.finalize(prepared, shutil.rmtree, temporary, ignore_errors=True)
        return prepared
    key = _key(fingerprints, recipes, data, seed, tokenizer)
    folder = Path(data.cache).expanduser() / "data" / key
    with _preparation_lock(folder):
        damaged = None
        if os.path.lexists(folder):
            damaged = seals.broken_file(folder, DATA_SEAL, is_closed=True)
            if damaged is None:
                return _read(folder, data, cached=True)
            seals.remove(folder)
        return replace(make(folder), damaged=damaged)


def prepare_split(
    split: str,
    parts: Sequence[Part],
    folder: Path,
    data: Data,
    seed: int,
    template: Template | None,
    tokenizer: Any,
    fast: bool = True,
) -> tuple[PackedRows, SplitLedger]:
    """A few rows of a split by themselves, in this process: ``folder``, which there is not yet, then has them.

    :param fast: whether the encoder may take the fast path.
    :raises DataError: a malformed row under ``data.on_invalid=error``. :raises FastPathMismatch: the encoder must go
        another way.
    """
    recipes = _recipes([part.source for part in parts], data, template, tokenizer)
    alone = data.model_copy(update={"workers": 1})
    means = BuildContext(alone, seed, recipes, tokenizer, Encoder(tokenizer, fast), fast, None)
    builder = SplitBuilder(split, parts, means)
    ledger = builder.build(folder)
    builder.close()
    return read_split(folder, joined=False), ledger


def _recipes(sources: Sequence[Source], data: Data, template: Template | None, tokenizer: Any) -> dict[str, Recipe]:
    """How the rows of each set become tokens, by its name."""
    return {
        source.name: Recipe(
            source.format, source.columns, source.tags, None if source.format == "text" else template,
            data.train_on, data.truncation, data.max_length, tokenizer.eos_token_id, begin_token(tokenizer),
            tuple(special_tokens(tokenizer)) if data.special_tokens == "text" else (), source.merges,
        )
        for source in sources
    }  # fmt: skip


def _make(
    folder: Path, parts: Parts, means: BuildContext, fingerprints: dict[str, dict[str, dict[str, str]]]
) -> Prepared:
    """Build every split beside ``folder``, and move it there whole."""
    files: dict[str, list[str]] = {}
    for split, of in parts.items():
        files[split] = sorted(
            {file for part in of for file in fingerprints[part.source.name][_source_split(part, split)]}
        )
    hashes = {file: value for of in fingerprints.values() for split in of.values() for file, value in split.items()}
    writing = folder.with_name(f".{folder.name}.tmp")
    try:
        try:
            splits = _build(writing, parts, means)
        except FastPathMismatch:
            means = replace(means, encoder=Encoder(means.tokenizer, fast=False), fast=False)
            splits = _build(writing, parts, means)
        names = " + ".join(dict.fromkeys(part.source.name for part in parts["train"]))
        ledger = Ledger(names, files, hashes, splits, means.encoder.engine)
        _check_not_empty(ledger)
        (writing / _LEDGER).write_text(json.dumps(ledger.counts(), ensure_ascii=False), encoding="utf-8")
        seals.seal_folder(writing, DATA_SEAL)
        move_folder(writing, folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return _read(folder, means.data, cached=False)


def _build(folder: Path, parts: Parts, means: BuildContext) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was stopped
    builders = {split: SplitBuilder(split, of_split, means) for split, of_split in parts.items()}
    ledgers = {split: builder.build(folder / split) for split, builder in builders.items()}
    for split, builder in builders.items():
        if split != "train":
            builder.compare(builders["train"])
    for builder in builders.values():
        builder.close()
    return ledgers


def _check_not_empty(ledger: Ledger) -> None:
    for name, split in ledger.splits.items():
        # Golden prompts are asked, however long they are: nothing is learned from them.
        if not split.packed_rows and (name == "train" or (split.rows_in and name != "golden")):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in split.dropped.items())
            files = ", ".join(ledger.files[name][:3]) + (", ..." if len(ledger.files[name]) > 3 else "")
            raise DataError(f"{files}: no row of {name} is left to learn from ({reasons or 'it has no rows'}).")


def _read(folder: Path, data: Data, cached: bool) -> Prepared:
    ledger = Ledger.from_counts(json.loads((folder / _LEDGER).read_text(encoding="utf-8")))
    joined = data.packing == "wrapped" and not data.reset_positions
    rows = {name: read_split(folder / name, joined) for name, split in ledger.splits.items() if split.packed_rows}
    return Prepared(rows, ledger, cached)


def _fingerprints(source: Source) -> dict[str, dict[str, str]]:
    return {split: location.fingerprint() for split, location in source.splits.items()}


def _source_split(part: Part, split: str) -> str:
    """The split of the source that a part's rows come from: train, where they are held out of it."""
    return split if split in part.source.splits else "train"


def _key(fingerprints: Any, recipes: dict[str, Recipe], data: Data, seed: int, tokenizer: Any) -> str:
    """A hash of everything that the result depends on: the data's content, how it is read, and this code."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    of_sets = {
        name: [of.format, of.columns, of.tags, of.template and of.template.source] for name, of in recipes.items()
    }
    options = data.model_dump(mode="json", exclude={"workers", "cache", "registry", "path", "share_prompts"})
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    versions = {package: metadata.version(package) for package in ("transformers", "tokenizers", "tiktoken")}
    everything = [fingerprints, of_sets, options, seed, vocabulary, special, versions, code.hexdigest()]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def _preparation_lock(folder: Path) -> Iterator[None]:
    """One process prepares; others that want the same wait for it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f".{folder.name}.lock").open("w")
    except OSError as error:
        raise DataError(
            f"data.cache={folder.parent.parent} cannot be written ({error.strerror}). Give another folder, or "
            "data.cache=null."
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # the file stays: unlinking it would let a third process in beside one that waits
