"""What is loaded from a run directory answers as the run did when it ended."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ftlab.errors import RunDirError
from ftlab.measure.generate import generate
from ftlab.policy.from_run import load_policy
from tests.runs import FEW, train_run

GIVEN = (
    "model=tiny_instruct", "data.max_samples=32", "train.max_steps=4", "train.learning_rate=1e-3", "tracker=none",
    "eval.golden_rows=6", "eval.samples=6", "eval.max_new_tokens=6", FEW,
)  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_answers_as_the_run_did_at_its_end(method, tmp_path):
    run = train_run(tmp_path / "r", f"method={method}", "model.adapter=null", *GIVEN)
    policy = load_policy(run.path)
    samples = json.loads(run.samples_file("sft", "after").read_text())["samples"]
    assert policy.template is not None
    prompts = [policy.template.prompt([{"role": "user", "content": one["prompt"]}], None) for one in samples]
    answers = generate(
        policy.model, policy.tokenizer, prompts, max_new_tokens=6, batch_size=8, max_tokens=4096, stop=policy.stop
    )
    assert answers == [one["answer"] for one in samples]
    assert [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad] == []
    assert torch.is_grad_enabled() and not policy.model.training


def test_what_is_no_finished_policy_is_refused_in_words(tmp_path):
    with pytest.raises(RunDirError, match=r"nowhere is no run directory: it has no run\.yaml"):
        load_policy(tmp_path / "nowhere")
    run = train_run(tmp_path / "r", *GIVEN)
    shutil.rmtree(run.path / "phases")
    with pytest.raises(RunDirError, match="r has not finished training; finish it first: ftlab resume"):
        load_policy(run.path)
