"""The tiny model's tokenizer and template, and the path from rows to batches as a run takes it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ftlab.config import command_line
from ftlab.config.compose import read
from ftlab.data.formats import Conversation
from ftlab.data.ledger.ledger import SplitLedger
from ftlab.data.packing.store import IGNORE, PackedRows, Sample
from ftlab.data.prepare import Parts, Prepared, prepare, split_parts
from ftlab.data.sources import resolve
from ftlab.data.sources.blocks import Block
from ftlab.data.tokens.block_encoder import BlockEncoder, Recipe
from ftlab.data.tokens.encoder import Encoder
from ftlab.data.tokens.templates import Template
from ftlab.schema import Run

ROOT = Path(__file__).resolve().parents[2]


PLACES = {"data.path", "data.cache", "data.registry"}
PLAIN = {f"data.{key}" for key in (
    "max_length", "overlap", "truncation", "packing", "reset_positions", "train_on", "on_invalid", "max_samples",
    "num_samples", "mix", "workers", "split.validation", "split.test", "split.fraction", "split.test_fraction",
)}  # fmt: skip


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Run:
    return read(command_line.read(("data.cache=null", *overrides)).overrides)


def _run(overrides: tuple[str, ...]) -> Run:
    """Composing takes a tenth of a second, so it is done once for all runs that differ in places and plain values.

    Those are put in afterwards, and validated by the schema as they are when they are composed.
    """
    chosen, others, seed = {}, [], None
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "seed":
            seed = int(value)
        elif key in PLACES and value != "null":
            chosen[key] = value
        elif key in PLAIN:
            chosen[key] = yaml.safe_load(value)
        else:
            others.append(override)
    if "data.path" in chosen:
        others.append("data.path=here")
    run = _composed(tuple(others))
    values = run.data.model_dump()
    for key, value in chosen.items():
        *path, name = key.split(".")[1:]
        (values[path[0]] if path else values)[name] = value
    data = type(run.data).model_validate(values)
    return run.model_copy(update={"data": data, "seed": run.seed if seed is None else seed})


@dataclass
class Workbench:
    """What a run does with its data, one call for each step a test wants to stop at."""

    tokenizer: Any
    template: Template

    def config(self, *overrides: str) -> Run:
        return _run(overrides)

    def parts(self, *overrides: str) -> Parts:
        """Which rows go to which split; none is read."""
        run = _run(overrides)
        return split_parts(resolve.resolve(run.data, run.stage.name), run.data, run.seed)

    def prepare(
        self, *overrides: str, tokenizer: Any = None, template: Template | None = None, progress: Any = None
    ) -> Prepared:
        """Nothing is cached unless ``data.cache`` is among the overrides."""
        run = _run(overrides)
        sources = resolve.resolve(run.data, run.stage.name)
        template = None if run.stage.name == "pt" else template or self.template
        parts = split_parts(sources, run.data, run.seed)
        return prepare(sources, parts, run.data, run.seed, template, tokenizer or self.tokenizer, progress)

    def encode(self, messages: Sequence[dict[str, Any]], train_on: str = "assistant", tools: Any = None) -> Sample:
        """One conversation of any length, alone."""
        return self.encode_all([Conversation(list(messages), tools)], train_on)[0]

    def encode_all(self, conversations: Sequence[Conversation], train_on: str = "assistant") -> list[Sample]:
        """Conversations of one block."""
        rows = [{"messages": one.messages, "tools": one.tools} for one in conversations]
        encoded = self.block_encoder(train_on)(Block("here", range(len(rows)), range(1, len(rows) + 1), rows, "values"))
        assert not encoded.problems, encoded.problems
        ends = encoded.counts.cumsum()
        return [Sample(encoded.ids[e - n : e], encoded.trained[e - n : e]) for e, n in zip(ends, encoded.counts)]

    def block_encoder(self, train_on: str = "assistant", encoder: Encoder | None = None) -> BlockEncoder:
        end = self.tokenizer.eos_token_id
        recipe = Recipe("messages", {}, {}, self.template, train_on, "error", 1 << 30, end)
        return BlockEncoder(recipe, encoder or self.encoder)

    @functools.cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(map(int, ids)), skip_special_tokens=False)

    def pieces(self, sample: Sample) -> list[tuple[str, bool]]:
        """Every token's own text, and whether it is trained."""
        return [(self.decode([id_]), label != IGNORE) for id_, label in zip(sample.input_ids, sample.labels)]

    def trained(self, sample: Sample) -> str:
        return self.decode(sample.input_ids[sample.labels != IGNORE])


@pytest.fixture(scope="session")
def bench() -> Workbench:
    from ftlab.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(_run(()).model)
    return Workbench(tokenizer, Template.for_tokenizer(tokenizer))


@pytest.fixture
def write(tmp_path):
    """Write rows (or text, or bytes) to a file of the test's own folder."""

    def write_file(name: str, content: Any) -> Path:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        else:
            path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write_file


@pytest.fixture(scope="session")
def check_ledger():
    """Rows in = kept + dropped; tokens in = trained + masked + cut; and the same tokens are in the packed rows."""

    def check(ledger: SplitLedger, samples: Sequence[Sample] | None = None) -> None:
        counts = ledger.as_dict()
        rows, tokens = counts["rows"], counts["tokens"]
        assert rows["in"] == rows["kept"] + rows["dropped"]
        assert rows["dropped"] == sum(reason["rows"] for reason in counts["dropped"].values())
        assert tokens["in"] == tokens["trained"] + tokens["masked"] + tokens["cut"]
        assert min([*rows.values(), *tokens.values()]) >= 0
        assert all(len(reason["first"]) <= min(reason["rows"], 20) for reason in counts["dropped"].values())
        held = tokens["trained"] + tokens["masked"] + tokens["repeated"]
        packing = counts["packing"]
        assert tokens["padded"] == packing["rows"] * packing["tokens_per_row"] - held
        assert packing["fill"] == round(ledger.fill, 4) <= 1
        assert sum(samples for _, _, samples in counts["lengths"]["histogram"]) >= rows["kept"]
        if samples is not None:
            assert held == sum(len(sample.input_ids) for sample in samples)
            assert tokens["trained"] == sum(sample.trained for sample in samples)
            assert not any(sample.learned[:1].any() for sample in samples)

    return check


@pytest.fixture(scope="session")
def check_prepared(check_ledger, samples_of):
    """The ledger of every split against its rows, none of which is longer than it may be."""

    def check(prepared: Prepared) -> None:
        for name, ledger in prepared.ledger.splits.items():
            rows = prepared.rows.get(name, ())
            check_ledger(ledger, samples_of(rows))
            assert len(rows) == ledger.packed_rows
            longest = ledger.packed_capacity // max(ledger.packed_rows, 1)
            assert all(0 < rows[index].length <= longest for index in range(len(rows)))

    return check


@pytest.fixture(scope="session")
def samples_of():
    """The samples of packed rows, each once, in the order of the bins."""

    def collect(rows) -> list[Sample]:
        return [sample for index in range(len(rows)) for sample in rows[index].samples]

    return collect


@pytest.fixture(scope="session")
def same_rows():
    """Bit for bit: the same samples in the same packed rows, from the same rows of the source."""

    def check(one: PackedRows, other: PackedRows) -> None:
        assert len(one) == len(other)
        for index in range(len(one)):
            mine, theirs = one[index].samples, other[index].samples
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs):
                assert np.array_equal(a.input_ids, b.input_ids)
                assert np.array_equal(a.learned, b.learned)
        assert np.array_equal(one.kept, other.kept)

    return check
