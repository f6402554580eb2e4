"""What an answer is worth to ppo: reward functions, or a reward model that ``stage=rm`` trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlab.data.asked import Asked
from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.model import score as value_heads
from ftlab.model.load import fit_embeddings, load_model, load_reference
from ftlab.model.roles import REWARD, Roles, has_adapter
from ftlab.schema import PpoStage, Run
from ftlab.stages import rewards
from ftlab.stages.common import packed_hidden
from ftlab.stages.rollout import Answers, parts

# Prompts and their answers, as text and as tokens -> what each is worth, (B,), NaN where nothing says so.
Judge = Callable[[Sequence[Asked], Sequence[str], Answers], Tensor]
_KEY = "stage.reward_model"


def judge(run: Run, roles: Roles, tokenizer: Any, output_dir: str, model: Any, budget: int) -> Judge:
    """The reward of a run; a reward model joins the ``roles``.

    :param model: the policy. :param budget: tokens of one forward, with padding.
    :raises ConfigError: there is neither a reward function nor a reward model.
    :raises NotReadyError: the reward model is not there, is none, or reads other tokens than the policy writes.
    """
    stage = run.stage
    assert isinstance(stage, PpoStage)
    if stage.reward_model is None:
        if not stage.rewards:
            reason = "ppo needs something to reward: name reward functions, or a reward run in stage.reward_model."
            raise ConfigError([Mistake(rewards.KEY, reason, "[]")])
        return _functions(stage.rewards)
    folder = _folder(stage.reward_model, Path(output_dir))
    _check_tokenizer(folder, tokenizer)
    _load(run, roles, folder, tokenizer, model)
    return _scores(roles, budget)


def _functions(names: Sequence[str]) -> Judge:
    functions = rewards.resolve(names)

    def found(asked: Sequence[Asked], texts: Sequence[str], answers: Answers) -> Tensor:
        columns = {name: [one.columns.get(name) for one in asked] for name in {n for one in asked for n in one.columns}}
        prompts, expected = [one.messages for one in asked], [one.answer for one in asked]
        totals = rewards.score(functions, None, prompts, texts, expected, columns).totals
        return torch.tensor(totals, device=answers.ids_BL.device)

    return found


def _scores(roles: Roles, budget: int) -> Judge:
    """The reward model's score at each answer's last token, where ``stage=rm`` learns to give it."""

    @torch.no_grad()
    def found(asked: Sequence[Asked], texts: Sequence[str], answers: Answers) -> Tensor:
        scores_B = torch.zeros(len(texts), device=answers.ids_BL.device)
        with roles.acting(REWARD) as model:
            for part in parts(answers.ends_B.tolist(), budget):
                rows = torch.tensor(part, device=scores_B.device)
                ends_P = answers.ends_B[rows]
                ids_PL = answers.ids_BL[rows, : int(ends_P.max())]
                positions_PL = torch.arange(ids_PL.shape[1], device=ids_PL.device).expand_as(ids_PL)
                hidden_PLD = packed_hidden(model, {"input_ids": ids_PL, "position_ids": positions_PL})
                last_PD = hidden_PLD[torch.arange(len(part), device=rows.device), ends_P - 1]
                scores_B[rows] = roles.heads[REWARD](last_PD.float())[:, 0]
        return scores_B

    return found


def _folder(named: str, output_dir: Path) -> Path:
    """Where a reward model's files are: in a run directory, a ``final/`` folder, or an earlier phase of this run."""
    phases = sorted(output_dir.parent.glob(f"*-{named}/final")) if "/" not in named else []
    for folder in (*phases, Path(named) / "final", Path(named)):
        if (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file():
            return folder
    raise NotReadyError(
        f"{_KEY}={named} is neither an earlier phase of this run nor a run directory with a final model. Train one "
        "with stage=rm, and give its run directory."
    )


def _check_tokenizer(folder: Path, tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(folder).get_vocab()
    except (OSError, ValueError) as error:
        raise NotReadyError(f"{_KEY}={folder} has no tokenizer: {str(error).splitlines()[0]}") from None
    ours = tokenizer.get_vocab()
    if theirs != ours:
        other = next(token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token))
        raise NotReadyError(
            f"{_KEY}={folder} has another tokenizer than the policy ({len(theirs):,} tokens to {len(ours):,}; "
            f"{other!r} is {theirs.get(other)} there, {ours.get(other)} here), so it would judge other text than was "
            "written. Train the reward model from the policy's base model."
        )


def _load(run: Run, roles: Roles, folder: Path, tokenizer: Any, model: Any) -> None:
    """As an adapter on the policy's base where that is what it was trained on, else as a second model."""
    if not (folder / "adapter_config.json").is_file():
        head = _saved_head(folder)
        roles.add_reward_model(load_reference(run, str(folder)), head)
        return
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    weights = load_peft_weights(str(folder), device="cpu")
    names = [name for name in weights if name.endswith(f"{value_heads.NAME}.weight")]
    if len(names) != 1:
        raise NotReadyError(f"{_KEY}={folder} is no reward model: its adapter has no {value_heads.NAME} head.")
    head = weights.pop(names[0])
    # The head is kept beside the model, where it is no part of what PEFT saves.
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
    if _shares_base(run, model, config, weights):
        roles.add_reward_adapter(config, weights, head)
        return
    base = str(config.base_model_name_or_path)
    own = run.model.model_copy(update={"path": base, "revision": config.revision or "main", "init": "pretrained"})
    second = load_model(run.model_copy(update={"model": own}))
    fit_embeddings(second, tokenizer)
    second = get_peft_model(second, config)
    found: Any = set_peft_model_state_dict(second, weights)
    if found.unexpected_keys:
        raise NotReadyError(f"{_KEY}={folder} does not fit its base {base}: it has {found.unexpected_keys[0]}.")
    roles.add_reward_model(second, head)


def _shares_base(run: Run, model: Any, config: Any, weights: dict[str, Tensor]) -> bool:
    """Whether the reward adapter can be put on the policy's base as that is now."""
    if not has_adapter(model) or run.model.init != "pretrained":
        return False
    same = _real(str(config.base_model_name_or_path)) == _real(run.model.path)
    # PiSSA takes what the adapter begins with out of the base.
    changed = any(str(c.init_lora_weights).startswith("pissa") for c in (config, model.peft_config["default"]))
    return same and not changed and all("lora_" in name or "trainable_tokens" in name for name in weights)


def _real(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def _saved_head(folder: Path) -> Tensor:
    """The value head of a reward model that was saved whole, shape (1, D)."""
    from safetensors import safe_open

    name = f"{value_heads.NAME}.weight"
    index = folder / "model.safetensors.index.json"
    files = {name: "model.safetensors"}
    if index.is_file():
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    if name in files and (folder / files[name]).is_file():
        with safe_open(str(folder / files[name]), "pt") as file:
            if name in file.keys():  # noqa: SIM118 -- it is no mapping
                return file.get_tensor(name)
    raise NotReadyError(f"{_KEY}={folder} is no reward model: it has no {name}. Train one with stage=rm.")
