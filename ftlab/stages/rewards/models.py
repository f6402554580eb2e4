"""Reward models that ``stage=rm`` trained, as rewards of ppo and grpo.

Shape suffixes: P texts of one forward, L tokens of the longest of them, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.errors import NotReadyError, first_line
from ftlab.model import score as value_heads
from ftlab.model.adapter_weights import put_adapter_weights
from ftlab.model.guests import TRAINED, GuestAdapters, active_adapter
from ftlab.model.load import fit_embeddings, load_model, load_reference
from ftlab.schema import Run
from ftlab.stages.rewards import find
from ftlab.stages.trainer.forward import packed_hidden


class RewardModel:
    """Called as a reward function is: the score of each prompt with its completion, at the last token, where
    ``stage=rm`` learns to give it.

    :param model: a causal model; the policy's, where the reward model is a guest there. :param guest: its name there.
    :param head: shape (1, D). :param budget: tokens of one forward, with padding.
    """

    def __init__(self, model: Any, guest: str | None, head: Tensor, budget: int):
        self.model, self.guest, self._budget = model, guest, budget
        self.head = nn.Linear(head.shape[1], 1, bias=False, dtype=torch.float32, device=model.device)
        self.head.weight.data.copy_(head)
        self.head.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]]) -> list[float]:
        texts = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completion_ids)]
        scores = [0.0] * len(texts)
        with self._acting() as model:
            for part in batches_by_tokens([len(text) for text in texts], self._budget):
                ends_P = torch.tensor([len(texts[row]) for row in part])
                ids_PL = torch.zeros((len(part), int(ends_P.max())), dtype=torch.long)
                for at, row in enumerate(part):
                    ids_PL[at, : ends_P[at]] = torch.tensor(texts[row])
                ids_PL = ids_PL.to(model.device)
                # Causal attention keeps the padding, which is on the right, from everything that counts.
                positions_PL = torch.arange(ids_PL.shape[1], device=ids_PL.device).expand_as(ids_PL)
                hidden_PLD = packed_hidden(model, {"input_ids": ids_PL, "position_ids": positions_PL})
                last_PD = hidden_PLD[torch.arange(len(part)), ends_P - 1]
                with torch.autocast(last_PD.device.type, enabled=False):
                    found_P = self.head(last_PD.float())[:, 0].tolist()
                for row, value in zip(part, found_P):
                    scores[row] = value
        return scores

    @contextmanager
    def _acting(self) -> Iterator[Any]:
        if self.guest is None:
            yield self.model
        else:
            with active_adapter(self.model, self.guest) as model:
                yield model


def load(
    run: Run, path: str, spec: str, phases: Path | None, policy: Any, tokenizer: Any, guests: GuestAdapters | None
) -> RewardModel:
    """The reward model of a run directory or an earlier phase: as an adapter on the policy's base where that is what it
    was trained on, else as a second model.

    :param spec: what the user typed, for errors. :param phases: this run's ``phases/``. :param policy: on its device.
    :raises NotReadyError: there is none, or it reads other tokens than the policy writes.
    """
    wrong = find.reward_model_problem(path, phases)
    if wrong is not None:
        raise NotReadyError(f"{spec}: {wrong}")
    folder = find.find_reward_model(path, phases)
    if folder is None:  # it may have been a phase that is still to come
        reason = f"it is neither a run directory with a final model nor an earlier phase. {find.MAKE}"
        raise NotReadyError(f"{spec}: {reason}")
    _check_tokenizer(folder, spec, tokenizer)
    budget = run.train.micro_batch_size * run.data.max_length
    if not (folder / "adapter_config.json").is_file():
        model = load_reference(run, str(folder)).to(policy.device)
        return RewardModel(model, None, _saved_head(folder), budget)
    from peft import PeftConfig, get_peft_model, load_peft_weights

    config = PeftConfig.from_pretrained(str(folder))
    weights = load_peft_weights(str(folder), device="cpu")
    head = weights.pop(next(name for name in weights if name.endswith(find.HEAD)))
    # The head is kept beside the model, where it is no part of what PEFT saves.
    config.task_type, config.modules_to_save, config.inference_mode = "CAUSAL_LM", None, True
    config.lora_dropout = 0.0  # also while the policy is in training mode
    if guests is not None and _shares_base(run, policy, config, weights):
        guest = f"reward_{sum(name.startswith('reward_') for name in guests.names)}"
        guests.add_saved(guest, config, weights, spec)
        return RewardModel(policy, guest, head, budget)
    base = str(config.base_model_name_or_path)
    own = {"path": base, "revision": config.revision or "main", "init": "pretrained"}
    second = load_model(run.model_copy(update={"model": run.model.model_copy(update=own)}))
    fit_embeddings(second, tokenizer)
    second = get_peft_model(second, config)
    put_adapter_weights(second, weights, f"{spec}: {folder}, which was trained on {base},", TRAINED)
    return RewardModel(second.to(policy.device).eval().requires_grad_(False), None, head, budget)


def _check_tokenizer(folder: Path, spec: str, tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except (OSError, ValueError) as error:
        raise NotReadyError(f"{spec}: {folder} has no tokenizer: {first_line(error)}") from None
    ours = tokenizer.get_vocab()
    if theirs != ours:
        other = next(token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token))
        raise NotReadyError(
            f"{spec}: {folder} has another tokenizer than the policy ({len(theirs):,} tokens to {len(ours):,}; "
            f"{other!r} is {theirs.get(other)} there, {ours.get(other)} here), so it would judge other text than was "
            "written. Train the reward model from the policy's base model."
        )


def _shares_base(run: Run, policy: Any, config: Any, weights: dict[str, Tensor]) -> bool:
    """Whether the reward adapter can be put on the policy's base as that is now."""
    if run.model.init != "pretrained":
        return False
    same = _resolved_path(str(config.base_model_name_or_path)) == _resolved_path(run.model.path)
    # PiSSA takes what the adapter begins with out of the base.
    changed = any(str(c.init_lora_weights).startswith("pissa") for c in (config, policy.peft_config[TRAINED]))
    return same and not changed and all("lora_" in name or "trainable_tokens" in name for name in weights)


def _resolved_path(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).exists() else path


def _saved_head(folder: Path) -> Tensor:
    """The value head of a reward model that was saved whole, shape (1, D)."""
    from safetensors import safe_open

    name = f"{value_heads.NAME}.weight"
    index = folder / "model.safetensors.index.json"
    file = "model.safetensors"
    if index.is_file():
        file = json.loads(index.read_text(encoding="utf-8"))["weight_map"][name]
    with safe_open(str(folder / file), "pt") as opened:
        return opened.get_tensor(name)
