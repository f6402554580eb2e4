"""ppo: who changes and who does not, the numbers that it begins with, resume, and whether it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.data.prepare import prepare, split_parts
from ftlab.data.prompts import prompt_rows
from ftlab.data.sources import resolve
from ftlab.errors import ConfigError, DivergedError, NotReadyError
from ftlab.model.load import load_model
from ftlab.model.roles import CRITIC, POLICY, REFERENCE
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.files import sha256
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.stages.losses import gae, kl_penalised_rewards, policy_loss, whiten
from ftlab.stages.ppo.rollout import Answers, logprobs_and_entropy
from ftlab.stages.ppo.trainer import PpoTrainer
from tests.conftest import ROOT
from tests.runs import make_run, metrics, resume_run, train_run
from tests.stages.waits import Between

SMALL = (
    "stage=ppo", "hardware.precision=fp32", "stage.rollout_batch_size=8", "stage.mini_batch_size=4",
    "stage.ppo_epochs=2", "stage.max_new_tokens=8", "train.logging_steps=1", "train.warmup_ratio=0",
    "data.max_samples=48", "eval.steps=1000", "stage.entropy_coefficient=0", "stage.early_stop_kl=null",
)  # fmt: skip
NO_MEASURES = ("eval.golden_rows=0", "eval.samples=2", "data.split.golden=none", "data.split.validation=none")


def a_trainer(folder: Path, *overrides: str) -> PpoTrainer:
    """What the engine makes of a command line, without its run directory."""
    run = make_run(*SMALL, *overrides)
    tokens = load_tokens(run)
    sources = resolve.resolve(run.data, "ppo")
    split = split_parts(sources, run.data, run.seed)
    prepared = prepare(sources, split, run.data, run.seed, tokens.template, tokens.tokenizer)
    model, _ = build_model(run, tokens)
    held = None if prepared.validation is None else prompt_rows(split["validation"], prepared.validation)
    return PpoTrainer(
        run, model, tokens.tokenizer, prompt_rows(split["train"], prepared.train), held, PhaseFiles.in_folder(folder)
    )


def weights(trainer: PpoTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.roles.module().named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


@pytest.fixture(scope="module")
def reward_run(tmp_path_factory) -> Path:
    """A reward model on the embedded base."""
    folder = tmp_path_factory.mktemp("rm") / "run"
    train_run(folder, "stage=rm", "train.max_steps=3", "data.max_samples=24", "data.split.golden=none",
              "data.split.validation=none")  # fmt: skip
    return folder


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("full", "qlora", "freeze"))]
)
def test_policy_and_critic_learn_and_nothing_else_changes(method, tmp_path):
    trainer = a_trainer(tmp_path, f"method={method}", "train.max_steps=3", "train.learning_rate=1e-4")
    mine, theirs = ({id(p) for p in trainer.roles.parameters(role).values()} for role in (POLICY, CRITIC))
    named = dict(trainer.roles.module().named_parameters())
    before = weights(trainer)
    trainer.train()
    changed = {id(named[name]) for name in moved(before, weights(trainer))}
    assert changed <= mine | theirs, "base or reference changed"
    assert changed & mine and changed & theirs
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    assert all(entry["grad_norm"] > 1e-3 and entry["critic_grad_norm"] > 1e-3 for entry in logged)
    if method == "lora":
        assert changed == mine | theirs, "every matrix of both adapters, and the value head"


def test_a_reward_adapter_gives_the_reward_models_own_scores_and_does_not_change(reward_run, tmp_path):
    from peft import PeftModel

    from ftlab.model.score import attach_score, score_of

    trainer = a_trainer(tmp_path, f"stage.reward_model={reward_run}", "train.max_steps=2", "train.learning_rate=1e-3")
    reward = trainer.judge.rewards[0].function
    assert reward.guest and reward.model is trainer.model, "a second model, where the base is one"
    before, head = weights(trainer), reward.head.weight.clone()
    assert sum(reward.guest in name.split(".") for name in before) > 20
    trainer.train()
    changed = moved(before, weights(trainer))
    assert changed and not any({reward.guest, REFERENCE} & set(name.split(".")) for name in changed)
    assert torch.equal(reward.head.weight, head)
    rollout = trainer._rollout
    assert rollout is not None
    base = load_model(make_run("stage=rm", "hardware.precision=fp32", "model=tiny"))
    attach_score(base)
    judge = PeftModel.from_pretrained(base, str(reward_run / "final")).eval()
    for row in range(4):
        ids = rollout.ids_BL[row : row + 1, : rollout.ends_B[row]]
        with torch.no_grad():
            hidden = judge(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[-1][:, -1]
            expected = score_of(judge)(hidden)[0, 0]
        assert rollout.scores_B[row].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.matrix
def test_a_reward_model_of_its_own_under_full(reward_run, tmp_path):
    trainer = a_trainer(tmp_path, f"stage.reward_model={reward_run}/final", "method=full", "train.max_steps=1")
    shared = a_trainer(tmp_path / "lora", f"stage.reward_model={reward_run}", "train.max_steps=1")
    reward = trainer.judge.rewards[0].function
    before = {name: value.clone() for name, value in reward.model.state_dict().items()}
    found = [t._make_rollout(0) for t in (trainer, shared)]
    assert torch.equal(found[0].ids_BL, found[1].ids_BL), "the same policy, merged or not, writes the same answers"
    torch.testing.assert_close(found[0].scores_B, found[1].scores_B, atol=1e-4, rtol=1e-4)
    trainer.train()
    assert reward.guest is None and not moved(before, reward.model.state_dict())


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (("stage.reward_model=/nowhere",), NotReadyError, "stage.reward_model=/nowhere: .*stage=rm"),
        (("stage.rewards=[]",), ConfigError, "needs something to reward"),
        (("stage.mini_batch_size=3",), ConfigError, "rollout_batch_size=8"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(overrides, error, said, tmp_path):
    with pytest.raises(error, match=said):
        a_trainer(tmp_path, *overrides)


def test_an_adapter_that_scores_nothing_is_no_reward_model(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(ROOT / "models/tiny", other, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    shutil.copytree(ROOT / "models/tiny_instruct", other, dirs_exist_ok=True)
    with pytest.raises(NotReadyError, match="is no reward model: its adapter has no score head"):
        a_trainer(tmp_path / "run", f"stage.reward_model={other}")


def test_a_loss_begins_at_ratio_one_and_at_the_formula_on_the_buffer(tmp_path):
    trainer = a_trainer(tmp_path, "train.max_steps=1", "stage.temperature=0.7")
    trainer.train()
    rollout = trainer._rollout
    assert rollout is not None
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert torch.equal(rollout.logprobs_BT, rollout.reference_BT), "policy and reference are one"
    assert logged["kl"] == 0 and logged["clip_fraction"] == 0 and logged["update_kl"] == pytest.approx(0, abs=1e-9)
    rows = trainer._mini_batch(0, 0)
    tokens = rollout.learned_BT[rows].sum()
    # At ratio 1 the policy's loss is minus the mean advantage; the critic's is half the squared error.
    policy = -rollout.advantages_BT[rows].sum() / tokens
    value = 0.5 * (rollout.values_BT - rollout.returns_BT)[rows].square().sum() / tokens
    assert logged["policy_loss"] == pytest.approx(policy.item(), abs=1e-6)
    assert logged["value_loss"] == pytest.approx(value.item(), rel=1e-5)
    assert logged["loss"] == pytest.approx((policy + trainer.stage.value_coefficient * value).item(), abs=1e-6)
    # What is in the buffer follows from scores, log-probabilities and values.
    rewards, _ = kl_penalised_rewards(
        rollout.scores_B, rollout.logprobs_BT, rollout.reference_BT, rollout.learned_BT, trainer.stage.kl_coefficient
    )
    torch.testing.assert_close(rollout.rewards_BT, rewards)
    advantages, returns = gae(rewards, rollout.values_BT, rollout.learned_BT, 1.0, 0.95)
    torch.testing.assert_close(rollout.advantages_BT, whiten(advantages, rollout.learned_BT))
    torch.testing.assert_close(rollout.returns_BT, returns)


def test_nothing_waits_between_logged_steps_of_a_rollout(tmp_path):
    """But for ``early_stop_kl``, which decides about the next step."""
    more = ("train.max_steps=6", "train.logging_steps=10", "stage.ppo_epochs=3")
    trainer, other = (
        a_trainer(tmp_path / name, *more, f"stage.early_stop_kl={limit}") for name, limit in (("a", "null"), ("b", "9"))
    )
    for one, count in ((trainer, 0), (other, 3)):
        between = Between()
        one.add_callback(between)
        one.train()
        assert sum(between.waits.found.values()) == count, between.waits.found


def test_the_policys_gradient_is_that_of_the_formula(tmp_path):
    """Over several forwards of a mini-batch, against one plain forward with all its logits."""
    trainer = a_trainer(tmp_path, "train.max_steps=1", "stage.temperature=1.3", "train.micro_batch_size=1",
                        "data.max_length=40", "stage.entropy_coefficient=0.05")  # fmt: skip
    trainer.create_optimizer_and_scheduler(1)
    trainer.training_step(trainer.model, {})
    rollout, stage = trainer._rollout, trainer.stage
    assert rollout is not None
    rows = trainer._mini_batch(0, 0)
    assert len(batches_by_tokens(rollout.ends_B[rows].tolist(), trainer._budget(1))) > 1
    mine = trainer.roles.parameters(POLICY)
    found = {name: p.grad.clone() for name, p in mine.items()}
    for parameter in mine.values():
        parameter.grad = None
    total: Any = 0.0
    for row in rows.tolist():
        start, end = int(rollout.starts_B[row]), int(rollout.ends_B[row])
        ids = rollout.ids_BL[row : row + 1, :end]
        logits = trainer.model(input_ids=ids, use_cache=False).logits[0] / stage.temperature
        all_logprobs = logits.log_softmax(-1)[start - 1 : end - 1]
        logprobs = all_logprobs.gather(-1, ids[0, start:, None])[:, 0]
        entropy = -(all_logprobs.exp() * all_logprobs).sum()
        mask = torch.ones(end - start, dtype=torch.bool)
        old, advantages = rollout.logprobs_BT[row, : end - start], rollout.advantages_BT[row, : end - start]
        torch.testing.assert_close(logprobs.detach(), old, atol=1e-5, rtol=1e-5)
        total = total + policy_loss(logprobs, old, advantages, mask, stage.clip_range).losses_BT.sum() - 0.05 * entropy
    (total / rollout.learned_BT[rows].sum()).backward()
    for name, parameter in mine.items():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("full", "qlora"))]
)
def test_a_run_stopped_in_the_middle_of_a_rollout_goes_on_to_the_same_bits(method, tmp_path):
    given = (f"method={method}", "train.max_steps=7", "train.learning_rate=1e-3", "stage.kl_target=0.5",
             "train.save_steps=6", "stage.rollout_batch_size=8")  # fmt: skip
    hashes = []
    for name, resume in (("whole", None), ("again", tmp_path / "whole" / "checkpoint-6")):
        trainer = a_trainer(tmp_path / name, *given)
        assert trainer._steps_per_rollout == 4, "so that step 6 is inside the second rollout"
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        trainer.model.save_pretrained(tmp_path / name / "final")
        (file,) = (tmp_path / name / "final").glob("*.safetensors")
        state = trainer.roles.critic_state()
        joined = torch.cat([state[key].flatten() for key in sorted(state)])
        hashes.append((sha256(file), joined, trainer._kl.coefficient, trainer.state.num_input_tokens_seen))
    assert hashes[0][0] == hashes[1][0]
    assert torch.equal(hashes[0][1], hashes[1][1]), "the critic's weights"
    assert hashes[0][2:] == hashes[1][2:]


def test_the_engine_resumes_it_too(tmp_path):
    given = (*SMALL, *NO_MEASURES, "train.max_steps=9", "train.save_steps=3", "train.save_total_limit=null")
    whole = train_run(tmp_path / "run", *given)
    final = sha256(whole.final / "adapter_model.safetensors")
    assert sorted(p.name for p in whole.final.iterdir() if p.is_dir()) == [], "the policy's adapter alone"
    rollouts = (whole.samples / "01-ppo-rollouts.jsonl").read_text()
    assert [json.loads(line)["rollout"] for line in rollouts.splitlines()] == [0, 0, 1, 1, 2, 2]
    lines = metrics(whole, "reward")
    shutil.rmtree(whole.path / "phases/01-ppo/final")
    shutil.rmtree(whole.path / "phases/01-ppo/checkpoint-9")
    manifest = whole.manifest()
    Manifest(whole).record(phases={}, status="interrupted")
    again = resume_run(whole.path)
    assert sha256(again.final / "adapter_model.safetensors") == final
    assert manifest["phases"]["ppo"]["sha256"] == again.manifest()["phases"]["ppo"]["sha256"]
    assert (again.samples / "01-ppo-rollouts.jsonl").read_text() == rollouts
    assert metrics(again, "reward") == lines


@pytest.mark.matrix
def test_it_learns_what_is_rewarded(tmp_path):
    """A letter that is in some answers now and then."""
    (tmp_path / "rewards.py").write_text(
        "def letter(completions, **_):\n    return [float('s' in text) for text in completions]\n"
    )
    trainer = a_trainer(
        tmp_path, f"stage.rewards=[{tmp_path}/rewards.py:letter]", "stage.rollout_batch_size=32",
        "stage.mini_batch_size=16", "train.learning_rate=1e-3", "stage.ppo_epochs=4", "train.max_steps=32",
        "train.lr_scheduler=constant", "stage.kl_coefficient=0.01", "stage.early_stop_kl=0.2", "data.max_samples=64",
    )  # fmt: skip
    held_out = trainer._held_out[:24]
    before = trainer.evaluate(held_out)
    trainer.train()
    after = trainer.evaluate(held_out)
    assert after["eval_reward"] > before["eval_reward"] + 0.2
    assert before["eval_kl"] == 0 and 0 < after["eval_kl"] < 20


def test_answers_without_a_reward_are_left_out(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def half(completions, **_):\n    return [None if i % 2 else float(i) for i in range(len(completions))]\n"
        "def none(completions, **_):\n    return [None] * len(completions)\n"
    )
    rollout = a_trainer(tmp_path, f"stage.rewards=[{tmp_path}/rewards.py:half]")._make_rollout(0)
    assert rollout.measures["reward_missing"] == 4 and rollout.measures["reward"] == 3.0
    assert not rollout.learned_BT[1::2].any() and torch.equal(rollout.learned_BT[0::2], rollout.mask_BT[0::2])
    assert not rollout.advantages_BT[1::2].any()
    trainer = a_trainer(tmp_path, f"stage.rewards=[{tmp_path}/rewards.py:none]", "train.max_steps=2")
    before = weights(trainer)
    trainer.train()
    assert not moved(before, weights(trainer)), "nothing was said, and nothing was learned"


def test_a_rollout_ends_early_once_the_policy_has_moved_too_far(tmp_path):
    trainer = a_trainer(tmp_path, "stage.early_stop_kl=1e-7", "train.learning_rate=1e-3", "train.max_steps=5")
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["stopped_early"] for entry in logged] == [0, 1, 1, 1, 0], "step 2 shows it; 3 and 4 are passed over"
    assert [entry["loss"] == 0 for entry in logged] == [False, False, True, True, False]


def test_the_kl_coefficient_follows_its_target(tmp_path):
    trainer = a_trainer(tmp_path, "stage.kl_target=100", "stage.kl_coefficient=0.1", "stage.ppo_epochs=1",
                        "train.max_steps=3")  # fmt: skip
    trainer.train()
    logged = [entry["kl_coefficient"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([0.1, 0.1, 0.098]), "nearer than wanted: 2 % less after a rollout"


def test_padding_changes_no_log_probability(tmp_path):
    trainer = a_trainer(tmp_path)
    model = trainer.model.eval()
    prompts = [trainer._prompts[i].ids for i in range(4)]
    replies = [[30], [40, 41, 42, 43, 44, 45], [50, 51], [60, 61, 62]]
    together = Answers.from_lists(prompts, replies, trainer.processing_class.pad_token_id, "cpu")
    assert [together.answer(row) for row in range(4)] == replies
    with torch.no_grad():
        found = together.spread(logprobs_and_entropy(model, together, np.arange(4), 0.8)[0])
        for row in range(4):
            alone = Answers.from_lists([prompts[row]], [replies[row]], 0, "cpu")
            expected = logprobs_and_entropy(model, alone, np.arange(1), 0.8)[0]
            torch.testing.assert_close(found[row, : len(replies[row])], expected, atol=1e-5, rtol=1e-5)
            assert not found[row, len(replies[row]) :].any()


def test_a_policy_that_is_no_number_any_more_writes_nothing(tmp_path):
    trainer = a_trainer(tmp_path, "train.max_steps=1")
    with torch.no_grad():
        next(iter(trainer.roles.parameters(POLICY).values())).fill_(torch.nan)
    with pytest.raises(DivergedError, match="at step 0"):
        trainer.train()
