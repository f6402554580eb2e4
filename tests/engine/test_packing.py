"""A run of a family whose packed samples would see each other: it says what it does, and trains and measures right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ftlab.data.packing.store import Sample
from ftlab.errors import Interrupted
from ftlab.rundir.directory import RunDir
from tests.compatibility import save_family
from tests.conftest import ROOT
from tests.runs import BARE, Stop, final_hash, metrics, resume_run, train_run
from tests.stages.trainers import plain_logprobs

SMALL = (
    *BARE, "model=local", "hardware.precision=fp32", "lora.dropout=0", "train.logging_steps=1", "train.max_steps=4",
    "train.micro_batch_size=2", "data.max_length=256", "data.max_samples=64", "data.cache=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {family: str(save_family(family, folder / str(at))) for at, family in enumerate(("falcon:alibi", "falcon"))}


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> RunDir:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return train_run(folder, *SMALL, f"model.path={folders['falcon:alibi']}", "train.save_steps=2")


def test_it_is_said_once_with_what_it_costs_and_kept(whole):
    log = whole.log.read_text()
    assert log.count("lets packed samples see each other by positions") == 1
    assert "gets each sample in a row of its own" in log and "calls of the model" in log and "is padding" in log
    assert whole.manifest()["packed_by"] == {"sft": "one_per_row"}
    assert len(metrics(whole, "loss")) == 4


def test_a_run_that_was_stopped_goes_on_the_same_way(whole, folders, tmp_path):
    options = (*SMALL, f"model.path={folders['falcon:alibi']}", "train.save_steps=2")
    with pytest.raises(Interrupted):
        train_run(tmp_path / "run", *options, hooks=Stop(2))
    stopped = RunDir.open(tmp_path / "run")
    assert stopped.manifest()["packed_by"] == {"sft": "one_per_row"}
    run = resume_run(tmp_path / "run")
    assert "kept apart by one_per_row, as before" in run.log.read_text()
    assert final_hash(run) == final_hash(whole)
    assert metrics(run, "loss") == metrics(whole, "loss")


@pytest.mark.parametrize("family", ["falcon:alibi", "falcon"])
def test_short_validation_rows_are_kept_apart_where_training_rows_are_long(family, folders, tmp_path):
    """One sample fills a training row, many a validation row: only the evaluation packs, and it is right too."""
    say = "The quick brown fox jumps over the lazy dog. "
    long = [{"instruction": f"Say {at}.", "output": say * 16} for at in range(4)]
    short = [{"instruction": f"Say {at}.", "output": say[: 9 + 5 * at]} for at in range(6)]
    for name, rows in (("train", long), ("validation", short)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    run = train_run(
        tmp_path / "run", *SMALL, f"model.path={folders[family]}", f"data.path={tmp_path}/train.json",
        "data.format=alpaca", f"data.split.validation={tmp_path}/validation.json", "train.max_steps=1",
    )  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, str(run.final)).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.final)
    alone = torch.cat([plain_logprobs(model, encoded(tokenizer, row)) for row in short])
    after = run.manifest()["phases"]["sft"]["after"]["validation loss"]
    assert after == pytest.approx(-alone.mean().item(), abs=1e-5)


def encoded(tokenizer: Any, row: dict[str, str]) -> Sample:
    """The row as a conversation, whose answer is learned."""
    turns = [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    found = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    return Sample(np.array(found["input_ids"], np.int32), np.array(found["assistant_masks"]) == 1)


SHORT = {
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 1, "max_seq_len": 64},
    "gpt_neo": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_position_embeddings": 64,
                "attention_types": [[["global"], 1]]},
    "gpt2": {"n_embd": 32, "n_head": 2, "n_layer": 1, "n_positions": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "isolation"),
    [("mpt", "one_per_row"), pytest.param("gpt_neo", "one_per_row", marks=pytest.mark.matrix),
     pytest.param("gpt2", "position_ids", marks=pytest.mark.matrix)],
)  # fmt: skip
def test_pairs_longer_than_the_positions_train_where_each_answer_fits(family, isolation, tmp_path):
    """Two answers side by side are more tokens than the model's table of positions has, and no sample is."""
    tokens = {"vocab_size": 2304, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(family, **tokens, **SHORT[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(ROOT / "models" / "tiny").save_pretrained(tmp_path / "model")
    given = (*SMALL, "stage=dpo", f"model.path={tmp_path / 'model'}", "data.max_length=64", "data.truncation=right")
    run = train_run(tmp_path / "run", *given, "train.max_steps=2")
    assert metrics(run, "loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert run.manifest()["packed_by"] == {"dpo": isolation}
    said = "it cannot compute a row of" in " ".join(run.log.read_text().split())
    assert said == (isolation == "one_per_row")


@pytest.mark.parametrize("stage", ["sft", pytest.param("dpo", marks=pytest.mark.matrix)])
def test_trl_trains_the_same(stage, folders, tmp_path):
    """TRL pads where positions do not keep samples apart: the same losses as our own trainer's."""
    options = (*SMALL, f"stage={stage}", f"model.path={folders['falcon']}", "train.max_steps=2")
    ours, theirs = (train_run(tmp_path / e, *options, f"train.engine={e}") for e in ("ftlab", "trl"))
    assert metrics(ours, "loss") == pytest.approx(metrics(theirs, "loss"), abs=1e-5)


SHARED = (
    *BARE, "hardware.precision=fp32", "train.logging_steps=1", "train.max_steps=2", "train.micro_batch_size=1",
    "data.max_length=128", "data.max_samples=32", "data.cache=null",
)  # fmt: skip


def test_a_prompt_for_two_answers_changes_what_is_computed_and_no_loss(tmp_path):
    """Beside a run whose attention cannot: it says so, since it was asked to, and has the same losses and gradients.
    The other stages are in test_fast_paths."""
    once = train_run(tmp_path / "once", "stage=dpo", *SHARED)
    twice = train_run(tmp_path / "twice", "stage=dpo", *SHARED, "data.share_prompts=true", "model.attention=eager")
    assert "prompts are computed once for both answers" in once.log.read_text()
    said = " ".join(twice.log.read_text().split())
    assert "prompts are computed for each answer all the same, since attention does not go by segments" in said
    assert (once.manifest()["shares_prompts"], twice.manifest()["shares_prompts"]) == ({"dpo": True}, {"dpo": False})
    for name in ("loss", "grad_norm"):
        assert metrics(once, name) == pytest.approx(metrics(twice, name), rel=1e-5, abs=1e-6)
    assert all(a < 0.75 * b for a, b in zip(metrics(once, "tokens"), metrics(twice, "tokens")))
