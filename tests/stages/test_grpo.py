"""grpo: what it learns, the numbers of its first step, and that a run stopped anywhere goes on to the bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

from ftlab.data.prompts import PromptRow
from ftlab.errors import ConfigError, NotReadyError
from ftlab.rundir.checkpoints import checkpoints
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import Run
from ftlab.stages.grpo.generations import check, missing_vllm, plan_generations
from ftlab.stages.losses import group_advantages, grpo
from ftlab.stages.rewards.scoring import RewardError
from tests.runs import final_hash, held_out, make_run, metrics, resume_run, train_run

pytest.importorskip("trl")

# 16 completions of 4 prompts in one optimizer step of two micro-batches.
SMALL = (
    "stage=grpo", "stage.num_generations=4", "stage.max_new_tokens=6", "train.micro_batch_size=8",
    "train.gradient_accumulation_steps=2", "train.logging_steps=1", "train.max_steps=3", "data.max_samples=24",
    "data.split.golden=none", "data.split.validation=none", "eval.samples=0", "eval.golden_rows=0", "tracker=none",
)  # fmt: skip


def reward_file(folder: Path, body: str) -> str:
    path = folder / "reward.py"
    path.write_text(f"def reward(prompts, completions, **_):\n    {body}\n")
    return f"stage.rewards=['{path}:reward']"


def trainer_of(run: Run, folder: Path, rows: list[PromptRow] | None = None) -> Any:
    """A trainer outside an engine. :param rows: its prompts; the shipped ones otherwise."""
    from transformers import set_seed

    from ftlab.data.prepare import prepare, split_parts
    from ftlab.data.prompts import prompt_rows
    from ftlab.data.sources import resolve
    from ftlab.model import adapter, load
    from ftlab.policy.tokens import load_tokens
    from ftlab.stages.grpo.trainer import GrpoTrainer

    tokens = load_tokens(run)
    if rows is None:
        sources = resolve.resolve(run.data, run.stage.name)
        parts = split_parts(sources, run.data, run.seed)
        prepared = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer)
        rows = prompt_rows(parts["train"], prepared.train)
    set_seed(run.seed)
    model = load.load_model(run)
    load.fit_embeddings(model, tokens.tokenizer)
    model = adapter.apply_method(model, run)
    return GrpoTrainer(run, model, tokens.tokenizer, rows, None, PhaseFiles.in_folder(folder))


# ------------------------------------------------------------------------------------------------------------ learning


def test_the_reward_rises_and_only_the_adapter_is_there(tmp_path):
    reward = reward_file(tmp_path, "return [float(len(set(text)) > 4) for text in completions]")
    run = train_run(
        tmp_path / "r", *SMALL, reward, "train.max_steps=10", "train.learning_rate=2e-3", "train.lr_scheduler=constant",
        held_out(tmp_path, "prompts"), "eval.steps=5", "stage.num_generations=8",
    )  # fmt: skip
    rewards = metrics(run, "reward")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.2, rewards
    result = run.manifest()["phases"]["grpo"]
    assert result["after"]["validation reward"] > result["before"]["validation reward"] + 0.2
    assert result["before"]["validation kl"] == pytest.approx(0, abs=1e-9)
    assert 0 < result["after"]["validation kl"] < 10
    assert result["after"]["validation loss"] == -result["after"]["validation reward"]
    written = {path.name for path in run.final.iterdir()}
    assert "adapter_model.safetensors" in written and not {"ref", "model.safetensors"} & written
    assert {path.name for path in run.phase("01-grpo").iterdir()} <= {"final", *(f"checkpoint-{n}" for n in range(99))}
    assert not any((run.path / name).exists() for name in ("completions", "README.md"))
    check_reloads(run)


def check_reloads(run: RunDir) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = run.plan().phases[0].config
    tokenizer = AutoTokenizer.from_pretrained(run.final)
    if (run.final / "adapter_config.json").is_file():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(config.model.path), str(run.final))
    else:
        model = AutoModelForCausalLM.from_pretrained(run.final)
    ids = tokenizer("Which city", return_tensors="pt")["input_ids"]
    assert model.generate(input_ids=ids, max_new_tokens=2, do_sample=False).shape[1] > ids.shape[1]


@pytest.mark.parametrize("method", ["full", pytest.param("qlora", marks=pytest.mark.matrix)])
def test_methods(method, tmp_path):
    started = load_file(Path(make_run("stage=grpo").model.path) / "model.safetensors")
    run = train_run(
        tmp_path / "r", *SMALL, f"method={method}", "stage.beta=0.1", "stage.rewards=['length:5']",
        "train.learning_rate=1e-3",
    )  # fmt: skip
    assert all(torch.isfinite(torch.tensor(metrics(run, "loss"))))
    assert metrics(run, "kl")[0] == pytest.approx(0, abs=1e-6), "the reference is the policy at the start"
    assert metrics(run, "kl")[-1] > 1e-6
    assert min(metrics(run, "grad_norm")) > 0
    if method == "full":
        final = load_file(run.final / "model.safetensors")
        assert all(not torch.equal(final[name], value) for name, value in started.items() if "proj" in name)
    else:
        assert {path.name for path in run.final.glob("*.safetensors")} == {"adapter_model.safetensors"}
        weights = load_file(run.final / "adapter_model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.float32}
    check_reloads(run)


# ---------------------------------------------------------------------------------------------------------- first step


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Any:
    """A trainer that has generated once and not stepped, its batch, and what its rewards were."""
    folder = tmp_path_factory.mktemp("first")
    trainer = trainer_of(make_run(*SMALL, "stage.beta=0.1", "stage.rewards=['length:9',exact_match]",
                                  "stage.reward_weights=[1,0.5]"), folder)  # fmt: skip
    seen: dict[str, Any] = {}
    calculate = trainer._calculate_rewards

    def calculated(inputs: Any, prompts: Any, completions: Any, ids: Any) -> Any:
        seen["rewards"] = calculate(inputs, prompts, completions, ids)
        seen.update(prompts=prompts, completions=completions, ids=ids)
        return seen["rewards"]

    trainer._calculate_rewards = calculated
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    batch = next(iter(trainer.get_train_dataloader()))
    torch.manual_seed(5)
    seen["whole"] = trainer._generate_and_score_completions(batch)
    return trainer, seen


def test_completions_are_sampled_as_the_run_says_whatever_the_models_folder_says(first):
    trainer, _ = first
    base, prompts = trainer.model.get_base_model(), [row.ids for row in trainer._train_rows[:4]]

    def completions() -> list[list[int]]:
        return trainer._generate_single_turn(prompts, None, {}, 1)[0]

    before, kept = completions(), base.generation_config
    base.generation_config = GenerationConfig(num_beams=3, no_repeat_ngram_size=1, suppress_tokens=[*range(40, 2000)])
    try:
        assert completions() == before
    finally:
        base.generation_config = kept


def test_prompts_are_the_ids_of_the_data_and_the_end_token_is_trained(first):
    trainer, seen = first
    whole = seen["whole"]
    for row, prompt in enumerate(seen["prompts"]):
        ids = whole["prompt_ids"][row][whole["prompt_mask"][row].bool()].tolist()
        assert ids == trainer._train_rows[int(prompt)].ids
        text = trainer._tokenizer.apply_chat_template(
            trainer._train_rows[int(prompt)].messages, add_generation_prompt=True, return_dict=True
        )
        assert ids == text["input_ids"], "which are those of the template"
        trained = whole["completion_ids"][row][whole["completion_mask"][row].bool()].tolist()
        assert trained == seen["ids"][row]
        ends = [token for token in trained if token in trainer.eos_token_ids]
        assert len(ends) <= 1 and (not ends or trained[-1] == ends[0])
    assert any(ids[-1] in trainer.eos_token_ids for ids in seen["ids"])


def test_advantages_and_loss_are_the_published_ones(first):
    trainer, seen = first
    whole = seen["whole"]
    totals = seen["rewards"] @ torch.tensor([1.0, 0.5])
    torch.testing.assert_close(whole["advantages"], group_advantages(totals, 4), atol=1e-6, rtol=1e-6)
    half = {k: v[:8] if v.ndim else v for k, v in whole.items()}
    loss = trainer.compute_loss(trainer.model, half)
    ids = torch.cat([half["prompt_ids"], half["completion_ids"]], 1)
    mask = torch.cat([half["prompt_mask"], half["completion_mask"]], 1)
    with torch.no_grad():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = trainer.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    count = half["completion_ids"].shape[1]
    logits = logits / make_run(*SMALL).stage.temperature
    logprobs = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][:, -count:]
    found = grpo(logprobs, logprobs, half["ref_per_token_logps"], half["advantages"], half["completion_mask"], 0.2, 0.1)
    expected = (found.losses_BT * half["completion_mask"]).sum() / whole["completion_mask"].sum()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    assert loss.abs() > 1e-6


# -------------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "more",
    [
        ("stage.num_iterations=2", "stage.steps_per_generation=4"),
        # Checkpoints lie in the second epoch.
        pytest.param(("data.max_samples=8", "stage.beta=0.1"), marks=pytest.mark.matrix),
    ],
    ids=["in the middle of a generation", "in a later epoch"],
)
def test_stopped_and_resumed_is_never_stopped(more, tmp_path):
    options = (*SMALL, "train.max_steps=7", "train.save_steps=3", "train.save_total_limit=9",
               "stage.rewards=['length:9']", "train.learning_rate=1e-3", "eval.steps=2",
               held_out(tmp_path, "prompts"), *more)  # fmt: skip
    run = train_run(tmp_path / "r", *options)
    whole, logged, result = final_hash(run), run.metrics.read_text(), run.manifest()["phases"]["grpo"]
    assert [path.name for path in checkpoints(run.phase("01-grpo"))] == ["checkpoint-7", "checkpoint-6", "checkpoint-3"]
    if "stage.num_iterations=2" in more:
        state = torch.load(run.phase("01-grpo") / "checkpoint-3" / "generation.pt", weights_only=True)
        assert state["step"] == 6 and state["buffer"] is not None, "a generation is trained on in 8 micro-batches"
    for name in ("checkpoint-6", "checkpoint-7", "final"):
        shutil.rmtree(run.phase("01-grpo") / name)
    Manifest(run).record(phases={}, status="interrupted")
    again = resume_run(run.path)
    assert final_hash(again) == whole
    assert again.manifest()["phases"]["grpo"] == result
    for key in ("loss", "reward", "tokens", "eval_reward", "kl"):
        assert metrics(again, key) == [line[key] for line in map(json.loads, logged.splitlines()) if key in line]


def test_stopped_before_the_first_checkpoint(tmp_path):
    """What was measured before training is not measured again, and its random numbers are nobody else's."""
    options = (*SMALL, "stage.rewards=['length:9']", held_out(tmp_path, "prompts"), "eval.steps=50")
    run = train_run(tmp_path / "r", *options)
    whole = final_hash(run)
    for path in checkpoints(run.phase("01-grpo")):
        shutil.rmtree(path)
    Manifest(run).record(phases={}, status="interrupted")
    assert final_hash(resume_run(run.path)) == whole


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_reward_that_raises_names_the_prompt(tmp_path):
    body = "return [1 / 0 if 'a' in str(p) else 1.0 for p in prompts]"
    said = r"reward\.py:reward failed on .*prompts/train\.jsonl:\d+, the prompt '.*' with the completion .*"
    with pytest.raises(RewardError, match=said + r"ZeroDivisionError: division by zero"):
        train_run(tmp_path / "r", *SMALL, reward_file(tmp_path, body))


def test_a_reward_that_raises_can_be_skipped(tmp_path):
    body = "return [1 / 0 if len(c) % 2 else float(len(c)) for c in completions]"
    options = (*SMALL, reward_file(tmp_path, body), "stage.on_reward_error=skip", "train.max_steps=2")
    run = train_run(tmp_path / "r", *options)
    assert re.search(r"UserWarning: .* failed on .*train\.jsonl:\d+, the prompt", run.log.read_text(encoding="utf-8"))
    assert 0 < metrics(run, f"rewards/{tmp_path / 'reward.py'}:reward/failed")[0] < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["stage.rewards=[exact_mach]"], "Did you mean exact_match?"),
        (["stage.reward_weights=[1,2]"], "2 weights for 1 rewards"),
        (
            ["train.micro_batch_size=2", "stage.steps_per_generation=3"],
            "are 6 completions, which are no whole groups of stage.num_generations=8. Use "
            "stage.steps_per_generation=4, or null, or stage.num_generations=2 or 3 or 6.",
        ),
        (
            ["train.micro_batch_size=2", "stage.steps_per_generation=6"],
            "Use stage.steps_per_generation=4 or 8, or null, or stage.num_generations=4 or 6 or 12.",
        ),
    ],
)
def test_refused_before_anything_is_loaded(options, said):
    with pytest.raises(ConfigError) as caught:
        check(make_run("stage=grpo", "stage.num_generations=8", *options))
    assert said in str(caught.value)


def test_generations_hold_whole_groups():
    def planned(*options: str) -> tuple[int, int]:
        found = plan_generations(make_run("stage=grpo", *options))
        return found.steps, found.prompts

    two, eight = "train.micro_batch_size=2", "stage.num_generations=8"
    assert planned() == (8, 8)
    assert planned(eight, two, "train.gradient_accumulation_steps=1") == (4, 1), "four optimizer steps"
    assert planned(eight, two, "train.gradient_accumulation_steps=6") == (12, 3)
    assert planned(eight, "train.micro_batch_size=3", "train.gradient_accumulation_steps=1") == (8, 3)
    assert planned(eight, two, "stage.steps_per_generation=8") == (8, 2)


def test_every_prompt_comes_in_every_epoch_in_an_order_of_its_own():
    from ftlab.stages.grpo.prompts import Prompts

    sampler = Prompts(data_source=range(10), mini_repeat_count=2, batch_size=4, repeat_count=3, seed=7)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        found = list(sampler)
        assert len(found) == len(sampler) == 3 * 4 * 2 * 3
        order = []
        for generation in (found[start : start + 24] for start in range(0, len(found), 24)):
            chosen = generation[0:8:2]
            assert generation == [prompt for prompt in chosen for _ in range(2)] * 3
            order += chosen
        assert sorted(order[:10]) == list(range(10)) and order[10:] == order[:2], "its first ones fill up the last"
        epochs.append(order)
    assert epochs[0] != epochs[1]


def test_what_fills_up_the_last_generation_is_said(tmp_path):
    rows = [PromptRow([3, 4, 5], [{"role": "user", "content": "q"}], "a", {}, "f:1")] * 6
    with pytest.warns(UserWarning, match="2 of 6 prompts come twice in each epoch"):
        trainer_of(make_run(*SMALL), tmp_path, rows)


def test_too_few_prompts_and_too_long_ones(tmp_path):
    rows = [PromptRow([3, 4, 5], [{"role": "user", "content": "q"}], "a", {}, "f:1")] * 3
    with pytest.raises(ConfigError, match="one generation answers 4 prompts, and 3 train"):
        trainer_of(make_run(*SMALL), tmp_path, rows)
    with pytest.raises(ConfigError, match=r"the longest prompt has 3 tokens, .* use 2045 or less"):
        trainer_of(make_run(*SMALL, "stage.max_new_tokens=2046"), tmp_path, rows * 2)


def test_vllm_is_asked_for_and_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = make_run(*SMALL, "stage.vllm=true")
    said = missing_vllm(run)
    assert said is not None and said.startswith("stage.vllm=true needs the package vllm")
    from ftlab.stages.grpo.trainer import GrpoTrainer

    with pytest.raises(NotReadyError, match="needs the package vllm"):
        GrpoTrainer(run, None, None, [], None, PhaseFiles.in_folder(tmp_path))
    assert missing_vllm(make_run(*SMALL)) is None
