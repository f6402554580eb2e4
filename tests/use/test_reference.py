"""``docs/reference.md``: made from ``conf/`` and the schema, and whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.config.keys import flatten
from ftlab.schema import Run
from ftlab.use import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference.md"
WRITE = "python -m ftlab.use.reference > docs/reference.md"


@pytest.fixture(scope="module")
def entries():
    return {(title, entry.key): entry for title, listed in reference.sections() for entry in listed}


def test_the_page_is_what_conf_and_the_schema_say():
    assert PAGE.read_text(encoding="utf-8") == reference.markdown() + "\n", f"write it anew: {WRITE}"


def test_every_key_has_a_meaning(entries):
    assert [f"{key} ({title})" for (title, key), entry in entries.items() if not entry.meaning] == []


def test_every_key_of_a_run_is_there(entries, make_run):
    listed = {key for _, key in entries}
    run: Run = make_run("stage=grpo")
    keys = {key for key, _ in flatten(run.model_dump(mode="json"))}
    names = {key for key in keys if key.endswith(".name") and key not in listed}
    open_names = {key for key in keys if key.startswith("model.recommended.learning_rate.")}
    assert keys - listed - names - open_names == {"task.words", "phases"}
    assert "model.recommended.learning_rate" in listed
    assert {name.partition(".")[0] for name in names} == {
        "task", "model", "method", "quant", "stage", "deepspeed", "hardware", "tracker",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("title", "key", "takes", "value"),
    [
        ("train", "train.warmup_ratio", "number >= 0, < 1", "0.03"),
        ("train", "train.save_steps", "integer > 0, or epoch", "50"),
        ("data", "data.packing", "true, false, wrapped", "true"),
        ("stage=dpo", "stage.beta", "number > 0", "0.1"),
        ("lora", "lora.target_modules", "all-linear, default, or list of text, entries >= 1", "all-linear"),
        ("model", "model.recommended.lora.r", "integer > 0", "16"),
        ("model", "model.recommended.epochs", "number > 0", "4"),
    ],
)
def test_what_a_key_takes_and_its_default(entries, title, key, takes, value):
    assert (entries[title, key].takes, entries[title, key].value) == (takes, value)


def test_a_meaning_goes_on_over_lines(entries):
    assert entries["stage=grpo", "stage.rewards"].meaning.endswith("model:RUN (a run directory of stage=rm)")
