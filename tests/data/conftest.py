"""The tiny model's tokenizer and template, and the path from rows to batches as a run takes it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftlab.config import arguments
from ftlab.config.compose import compose, validate
from ftlab.data import encode, registry
from ftlab.data.encode import IGNORE, Sample
from ftlab.data.formats import Conversation
from ftlab.data.ledger import SplitLedger
from ftlab.data.prepare import Prepared, Records, prepare, read_records
from ftlab.data.templates import Template
from ftlab.schema import Run

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def _run(overrides: tuple[str, ...]) -> Run:
    return validate(compose(arguments.read(overrides).overrides))


@dataclass(frozen=True)
class Workbench:
    """What a run does with its data, one call for each step a test wants to stop at."""

    tokenizer: Any
    template: Template

    def config(self, *overrides: str) -> Run:
        return _run(overrides)

    def read(self, *overrides: str) -> Records:
        run = _run(overrides)
        return read_records(registry.resolve(run.data, run.stage.name), run.data, run.seed)

    def prepare(self, *overrides: str) -> Prepared:
        run = _run(overrides)
        template = None if run.stage.name == "pt" else self.template
        return prepare(self.read(*overrides), run.data, template, self.tokenizer)

    def encode(self, messages: Sequence[dict[str, Any]], train_on: str = "assistant", tools: Any = None) -> Sample:
        rendered = self.template.render(Conversation(list(messages), tools))
        return next(encode.encode_rendered(self.tokenizer, [rendered], train_on))

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
    return Workbench(tokenizer, Template.of(tokenizer))


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
        if samples is not None:
            held = sum(len(sample.input_ids) for sample in samples)
            assert held == tokens["trained"] + tokens["masked"] + tokens["repeated"]
            assert sum(sample.trained for sample in samples) == tokens["trained"]

    return check


@pytest.fixture(scope="session")
def samples_of():
    """The samples of packed rows, each once, in the order of the bins."""

    def collect(rows) -> list[Sample]:
        return [sample for index in range(len(rows)) for sample in rows[index].samples]

    return collect
