"""Reward models as rewards: what they score, what they mix with, and which are refused before anything trains."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlab.errors import ConfigError, NotReadyError
from ftlab.preflight import check as preflight
from ftlab.rundir.directory import RunDir
from ftlab.stages.rewards import find
from ftlab.stages.rewards.resolve import check
from ftlab.stages.rewards.scoring import RewardError
from tests.conftest import ROOT
from tests.runs import make_run, metrics, train_run

QUICK = ("eval.golden_rows=0", "eval.samples=0", "data.split.golden=none", "data.split.validation=none",
         "train.logging_steps=1", "tracker=none", "hardware.precision=fp32")  # fmt: skip
GRPO = (
    "stage=grpo", "stage.num_generations=4", "stage.max_new_tokens=6", "train.micro_batch_size=8",
    "train.gradient_accumulation_steps=2", "train.max_steps=2", "data.max_samples=24", "train.learning_rate=1e-3",
)  # fmt: skip
PPO = (
    "stage=ppo", "stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.ppo_epochs=2", "train.max_steps=4",
    "stage.max_new_tokens=6", "data.max_samples=24", "train.learning_rate=1e-3", "train.lr_scheduler=constant",
)  # fmt: skip


@pytest.fixture(scope="module")
def reward_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rm") / "run"
    train_run(folder, "stage=rm", "train.max_steps=3", "data.max_samples=24", *QUICK)
    return folder


@pytest.fixture
def longer(tmp_path) -> str:
    """A reward function: long answers."""
    code = "def longer(completions, **_):\n    return [len(c) / 10 for c in completions]\n"
    (tmp_path / "rewards.py").write_text(code)
    return f"{tmp_path}/rewards.py:longer"


def scores_of(run: Path, texts: list[list[int]]) -> list[float]:
    """By PEFT and the saved head alone."""
    from peft import PeftModel

    from ftlab.model.load import load_model
    from ftlab.model.score import attach_score, score_of

    base = load_model(make_run("stage=rm", "hardware.precision=fp32", "model=tiny"))
    attach_score(base)
    judge = PeftModel.from_pretrained(base, str(run / "final")).eval()
    found = []
    for ids in texts:
        with torch.no_grad():
            state = judge(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[-1]
            found.append(score_of(judge)(state[:, -1])[0, 0].item())
    return found


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_grpo_mixes_a_reward_model_and_a_function(method, reward_run, longer, tmp_path, monkeypatch):
    from ftlab.stages.rewards.judge import RewardScorer

    seen: list[Any] = []
    asked = RewardScorer.__call__

    def watched(self: RewardScorer, rows: Any, completions: Any, ids: Any, only: Any = None) -> Any:
        found = asked(self, rows, completions, ids, only)
        seen.append((self, [[*row.ids, *more] for row, more in zip(rows, ids)], found))
        return found

    monkeypatch.setattr(RewardScorer, "__call__", watched)
    named = f"model:{reward_run}"
    run = train_run(tmp_path / "r", *GRPO, *QUICK, f"method={method}", f"stage.rewards=['{named}','{longer}']",
                    "stage.reward_weights=[0.5,2]")  # fmt: skip
    (judge, texts, found) = next(one for one in seen if named in one[2].values)
    if method != "qlora":  # whose base is another: quantized
        assert found.values[named] == pytest.approx(scores_of(reward_run, texts), abs=1e-4)
    model, function = (metrics(run, f"rewards/{name}/mean")[0] for name in (named, longer))
    assert metrics(run, "reward")[0] == pytest.approx(0.5 * model + 2 * function, abs=1e-4)
    assert all(norm > 0 for norm in metrics(run, "grad_norm"))
    guest = judge.rewards[0].function
    assert (guest.guest is None) == (method == "full"), "an adapter on the policy's base, where that has adapters"
    check_untouched(guest, reward_run)
    if method != "full":
        saved = load_file(run.final / "adapter_model.safetensors")
        assert not [name for name in saved if "reward" in name or "score" in name]
        assert sorted(path.name for path in run.final.iterdir() if path.is_dir()) == []


def check_untouched(judge: Any, run: Path) -> None:
    """The reward model after training is the one that was saved."""
    saved = load_file(run / "final/adapter_model.safetensors")
    name = judge.guest or "default"
    there = {key.replace(f".{name}.", "."): value for key, value in judge.model.named_parameters()}
    matrices = {key: value for key, value in saved.items() if "lora_" in key}
    assert len(matrices) > 20
    for key, value in matrices.items():
        assert torch.equal(there[key].detach().float(), value), key
    (head,) = (value for key, value in saved.items() if key.endswith("score.weight"))
    assert torch.equal(judge.head.weight, head)


@pytest.mark.parametrize("lora", ["r16", "pissa"])
def test_a_reward_model_that_lacks_a_tensor_is_refused(lora, reward_run, tmp_path):
    """On the policy's base, and on one of its own beside a policy whose base is changed."""
    other = tmp_path / "other"
    shutil.copytree(reward_run, other, symlinks=True)
    file = other / "final/adapter_model.safetensors"
    saved = load_file(file)
    name = max(key for key in saved if "lora_" in key)
    save_file({key: value for key, value in saved.items() if key != name}, file)
    policy = ("model=tiny", "model.adapter=null", f"lora={lora}")
    with pytest.raises(NotReadyError, match=f"{other}.* is cut short or of another model: it has no {name}, "):
        train_run(tmp_path / "r", *GRPO, *QUICK, *policy, f"stage.rewards=['model:{other}']")


def test_two_reward_models_are_two(reward_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(reward_run, other, symlinks=True)
    file = other / "final/adapter_model.safetensors"
    saved = load_file(file)
    (head,) = (key for key in saved if key.endswith("score.weight"))
    save_file({**saved, head: saved[head] * 2}, file)
    names = [f"model:{reward_run}", f"model:{other}/final"]
    run = train_run(tmp_path / "r", *GRPO, *QUICK, "train.max_steps=1", f"stage.rewards={names}".replace(" ", ""))
    first, second = (metrics(run, f"rewards/{name}/mean")[0] for name in names)
    assert first != 0 and second == pytest.approx(2 * first, rel=1e-4)


def test_ppo_mixes_them_too_and_skips_an_answer_that_a_function_fails_for(reward_run, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def odd(completions, **_):\n    return [1.0 if len(c) % 2 else 1 / 0 for c in completions]\n"
    )
    rewards = f"stage.rewards=['model:{reward_run}','{tmp_path}/rewards.py:odd']"
    said = r"rewards\.py:odd failed on .*train\.jsonl:\d+, the prompt '.*ZeroDivisionError"
    run = train_run(tmp_path / "r", *PPO, *QUICK, rewards, "stage.on_reward_error=skip", "eval.samples=8")
    assert re.search(said, run.log.read_text(encoding="utf-8"))
    (missing, *_) = metrics(run, "reward_missing")
    lines = [json.loads(line) for line in (run.samples / "01-ppo-rollouts.jsonl").read_text().splitlines()]
    first = [line for line in lines if line["rollout"] == 0]
    assert missing == sum(line["reward"] is None for line in first) > 0
    assert all((line["reward"] is None) == (len(line["answer"]) % 2 == 0) for line in first)
    with pytest.raises(RewardError, match=said):
        train_run(tmp_path / "stop", *PPO, *QUICK, rewards)


# ------------------------------------------------------------------------------------------------------------- refused


def refused(given: str, stage: str = "grpo") -> str:
    key = "stage.rewards=['model:{}']" if stage == "grpo" else "stage.reward_model={}"
    with pytest.raises((ConfigError, NotReadyError)) as caught:
        preflight.check(make_run(f"stage={stage}", key.format(given)))
    return str(caught.value)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_what_is_no_reward_model_is_refused_before_anything_is_loaded(stage, reward_run, tmp_path):
    assert "neither a run directory with a final model" in refused(f"{tmp_path}/nowhere", stage)
    (tmp_path / "unfinished").mkdir()
    assert "stage=rm" in refused(f"{tmp_path}/unfinished", stage)
    assert "its adapter has no score head" in refused(str(ROOT / "models/tiny_instruct"), stage)
    assert "its model has no score head" in refused(str(ROOT / "models/tiny"), stage)
    torn = tmp_path / "torn"
    shutil.copytree(reward_run / "final", torn)
    weights = (torn / "adapter_model.safetensors").read_bytes()
    for damaged, said in ((b"\xff" * 20, "is no safetensors file"), (weights[:-9], "is cut short: ")):
        (torn / "adapter_model.safetensors").write_bytes(damaged)
        assert f"{torn}/adapter_model.safetensors {said}" in refused(str(torn), stage)
    key = f"stage.rewards=['model:{reward_run}']" if stage == "grpo" else f"stage.reward_model={reward_run}/final"
    preflight.check(make_run(f"stage={stage}", key))


def test_names():
    assert "model:RUN" in str(check(["model"])[0]) and "model:RUN" in str(check(["model:"])[0])
    assert check(["model:judge"]) == [], "it may be a phase that is still to come"
    assert "Did you mean model:x?" in str(check(["modle:x"])[0])


def test_refusing_imports_no_torch(env):
    code = (
        "import sys; from ftlab.stages.rewards.resolve import check; check(['model:/nowhere/at/all']);"
        f"check(['model:{ROOT}/models/tiny_instruct']); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False False", done.stderr


@pytest.mark.parametrize(
    ("stage", "given"),
    [(GRPO, "stage.rewards=['model:{}']"), (PPO, "stage.rewards=['model:{}']"), (PPO, "stage.reward_model={}")],
)
def test_another_tokenizer_is_refused(stage, given, reward_run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(reward_run / "final", other / "final")
    file = other / "final" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 5000, "content": "<|theirs|>"})
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(NotReadyError, match="another tokenizer") as raised:
        train_run(tmp_path / "r", *stage, *QUICK, given.format(other))
    assert "<|theirs|>" in str(raised.value)
    assert given.format(other).translate(str.maketrans("", "", "[]'")) in str(raised.value)
    assert not (tmp_path / "r").exists(), "nothing was measured or trained"


def test_a_phase_that_never_came_is_said(tmp_path):
    with pytest.raises(ConfigError, match="is neither a phase with stage=rm that comes before nor a run directory"):
        train_run(tmp_path / "r", *GRPO, *QUICK, "stage.rewards=['model:judge']")


@pytest.mark.slow
def test_the_score_rises_where_a_reward_model_is_what_rewards(tmp_path):
    train_run(tmp_path / "rm", "stage=rm", "tracker=none")
    run = train_run(tmp_path / "ppo", "stage=ppo", f"stage.reward_model={tmp_path}/rm", "tracker=none",
                    "train.max_steps=144")  # fmt: skip
    result = RunDir.open(run.path).manifest()["phases"]["ppo"]
    assert result["after"]["validation reward"] > result["before"]["validation reward"] + 1
    assert result["after"]["validation kl"] < 2


# --------------------------------------------------------------------------------------------------- phases by name


def finished_phases(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name / "final").mkdir(parents=True)
        (folder / name / "final" / "adapter_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("others", [("01-my-judge", "03-judge-2"), ("1-judge", "007-judge", "judge", "x-judge")])
def test_a_reward_model_is_found_by_the_whole_name_of_its_phase(others, tmp_path):
    phases = finished_phases(tmp_path / "phases", *others)
    assert find.find_reward_model("judge", phases) is None
    assert "is neither" in str(find.reward_model_problem("judge", phases))
    finished_phases(phases, "02-judge")
    assert find.find_reward_model("judge", phases) == phases / "02-judge" / "final"
    finished_phases(phases, "112-last")
    assert find.find_reward_model("last", phases) == phases / "112-last" / "final"


def test_a_folder_does_not_stand_in_for_a_phase_of_its_name(tmp_path, monkeypatch):
    """Whose final weights were moved away."""
    monkeypatch.chdir(tmp_path)
    finished_phases(tmp_path, "judge")
    (tmp_path / "phases" / "02-judge").mkdir(parents=True)
    assert find.find_reward_model("judge", tmp_path / "phases") is None
    assert find.find_reward_model("judge", None) == Path("judge/final")
