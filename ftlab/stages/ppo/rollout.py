"""Answers that the policy writes itself, and what is known of each of their tokens. Used by ppo.

Shape suffixes: B answers, L tokens of the longest prompt and answer together, T tokens of the longest answer,
N answer tokens of some of the rows, in order of rows and then of time, V vocabulary, D hidden size.
"""
# ruff: noqa: N802, N815 -- shape suffixes

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.data.packing.store import spans
from ftlab.data.tokens.encoder import Counts
from ftlab.distributed.shares import join_shares
from ftlab.distributed.world import World
from ftlab.model.head import logits_function
from ftlab.model.roles import CRITIC, POLICY, REFERENCE
from ftlab.schema import PpoStage
from ftlab.stages.losses import entropy, gae, kl_penalised_rewards, masked_mean, whiten
from ftlab.stages.trainer.batching import LOGIT_ELEMENTS
from ftlab.stages.trainer.forward import packed_hidden


@dataclass
class Answers:
    """Prompts with sampled answers, padded on the right.

    :param ids_BL: int64. :param starts_B: where each answer begins. :param ends_B: behind its last token, which is an
        end token unless the answer was cut.
    """

    ids_BL: Tensor
    starts_B: Tensor
    ends_B: Tensor

    @cached_property
    def bounds_B2(self) -> Counts:
        """``starts_B`` and ``ends_B``, where the host can read them without waiting for the device."""
        return torch.stack([self.starts_B, self.ends_B], dim=1).cpu().numpy()

    @cached_property
    def mask_BT(self) -> Tensor:
        """Mask of the positions that hold answer tokens, bool, shape (B, T)."""
        lengths_B = self.ends_B - self.starts_B
        return torch.arange(int(lengths_B.max()), device=lengths_B.device) < lengths_B[:, None]

    def answer(self, row: int) -> list[int]:
        return self.ids_BL[row, self.starts_B[row] : self.ends_B[row]].tolist()

    def cut_share(self, stop: Sequence[int]) -> float:
        """Which share of the answers has no end. :param stop: tokens that are one."""
        last_B = self.ids_BL.gather(1, self.ends_B[:, None] - 1)[:, 0]
        return 1 - torch.isin(last_B, torch.tensor(stop, device=last_B.device)).float().mean().item()

    def spread(self, values_N: Tensor) -> Tensor:
        """One value for each answer token of all rows, as (B, T), 0 elsewhere."""
        mask_BT = self.mask_BT
        values_BT = torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=mask_BT.device)
        values_BT[mask_BT] = values_N
        return values_BT

    @classmethod
    def from_lists(
        cls, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int, device: Any
    ) -> Answers:
        joined = [[*prompt, *answer] for prompt, answer in zip(prompts, answers)]
        ids_BL = torch.full((len(joined), max(map(len, joined))), pad)
        for row, ids in enumerate(joined):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
        starts_B, ends_B = torch.tensor([len(p) for p in prompts]), torch.tensor([len(ids) for ids in joined])
        return cls(ids_BL.to(device), starts_B.to(device), ends_B.to(device))


@dataclass
class Sampled:
    """Answers that were just written, and what was measured of them.

    :param scores_B: of whole answers; NaN without a reward. :param measures: of each token, (B, T), by name.
    """

    answers: Answers
    texts: list[str]
    scores_B: Tensor
    measures: dict[str, Tensor]

    def joined(self, prompts: Sequence[Sequence[int]], pad: int, world: World) -> Sampled:
        """Those of all processes, each of which has its share of ``prompts``."""
        if world.size == 1:
            return self
        mask_BT, device = self.answers.mask_BT.cpu(), self.scores_B.device
        values = {name: values_BT.cpu().numpy() for name, values_BT in self.measures.items()}
        own = [
            (self.answers.answer(row), text, score, {name: of_name[row, mask_T] for name, of_name in values.items()})
            for row, (text, score, mask_T) in enumerate(zip(self.texts, self.scores_B.tolist(), mask_BT.numpy()))
        ]
        found = join_shares(own, len(prompts), world)
        answers = Answers.from_lists(prompts, [one[0] for one in found], pad, device)
        measures = {
            name: answers.spread(torch.from_numpy(np.concatenate([one[3][name] for one in found])).to(device))
            for name in values
        }
        scores_B = torch.tensor([one[2] for one in found], device=device)
        return Sampled(answers, [one[1] for one in found], scores_B, measures)


@dataclass
class Rollout(Answers):
    """What ``ppo_epochs`` passes of training need of one rollout, all of it on the device.

    :param number: counted from 0 over the phase. :param scores_B: of whole answers; NaN without a reward.
    :param learned_BT: answer tokens, except of answers without a reward.
    :param logprobs_BT: of the policy that sampled. :param reference_BT: of the reference, for the same tokens.
    :param values_BT: what the critic expected then.
    :param rewards_BT: scores and KL penalty. :param advantages_BT: whitened. :param returns_BT: what values aim at.
    :param measures: means that are logged with every step on it.
    :param stopped: whether the policy moved too far, so that the rest of its steps are passed over.
    """

    number: int
    scores_B: Tensor
    learned_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    rewards_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    measures: dict[str, float]
    stopped: bool = False

    def state_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: Any) -> Rollout:
        there: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()}
        return cls(**there)


def make_rollout(
    found: Sampled, number: int, coefficient: float, stage: PpoStage, stop: Sequence[int]
) -> tuple[Rollout, Tensor]:
    """What each token of some answers has to learn; and the KL of each answer to the reference, shape (B,).

    :param coefficient: of the KL penalty. :param stop: tokens that are an answer's end.
    """
    answers, scores_B = found.answers, found.scores_B
    logprobs_BT, reference_BT, values_BT = (found.measures[role] for role in (POLICY, REFERENCE, CRITIC))
    known_B = ~scores_B.isnan()
    learned_BT = answers.mask_BT & known_B[:, None]
    rewards_BT, kl_BT = kl_penalised_rewards(scores_B.nan_to_num(), logprobs_BT, reference_BT, learned_BT, coefficient)
    advantages_BT, returns_BT = gae(rewards_BT, values_BT, learned_BT, stage.gamma, stage.gae_lambda)
    known = int(known_B.sum())
    measures = {
        "reward": masked_mean(scores_B, known_B).item(),
        "reward_std": masked_mean((scores_B - masked_mean(scores_B, known_B)).square(), known_B).sqrt().item(),
        "reward_missing": float(len(scores_B) - known),
        "kl": masked_mean(kl_BT, learned_BT).item(),
        "kl_of_answer": kl_BT.sum().item() / max(known, 1),
        "kl_coefficient": coefficient,
        "answer_length": (answers.ends_B - answers.starts_B).float().mean().item(),
        "answers_cut": answers.cut_share(stop),
        "value": masked_mean(values_BT, learned_BT).item(),
    }
    rollout = Rollout(
        answers.ids_BL, answers.starts_B, answers.ends_B, number, scores_B, learned_BT, logprobs_BT, reference_BT,
        values_BT, rewards_BT, whiten(advantages_BT, learned_BT), returns_BT, measures,
    )  # fmt: skip
    return rollout, kl_BT.sum(1)


def answer_hidden(model: Any, answers: Answers, rows: Counts) -> tuple[Tensor, Tensor]:
    """Return the hidden state before each answer token of some rows, shape (N, D), and these tokens, shape (N,).

    Causal attention keeps the padding, which is on the right, from everything that counts: no mask is needed.
    """
    starts_B, ends_B = answers.bounds_B2[rows].T
    width = int(ends_B.max())
    ids_BL = answers.ids_BL[on_device(rows, answers.ids_BL.device), :width]
    positions_BL = torch.arange(width, device=ids_BL.device).expand_as(ids_BL)
    hidden_BLD = packed_hidden(model, {"input_ids": ids_BL, "position_ids": positions_BL})
    places_N = on_device(spans(width * np.arange(len(rows)) + starts_B, ends_B - starts_B), ids_BL.device)
    return hidden_BLD.flatten(0, 1)[places_N - 1], ids_BL.flatten()[places_N]


def answer_places(answers: Answers, rows: Counts, device: torch.device) -> Tensor:
    """Where the answer tokens of some rows stand in values of all, (B, T) made flat; shape (N,)."""
    starts_B, ends_B = answers.bounds_B2.T
    longest = (ends_B - starts_B).max()
    return on_device(spans(rows * longest, (ends_B - starts_B)[rows]), device)


def on_device(values: Counts, device: torch.device) -> Tensor:
    """Without waiting until they are there."""
    return torch.from_numpy(values).to(device, non_blocking=device.type == "cuda")


def logprobs_and_entropy(model: Any, answers: Answers, rows: Counts, temperature: float) -> tuple[Tensor, Tensor]:
    """log p of each answer token of some rows at ``temperature``, and the entropy of the distribution that it was drawn
    from, in nats; both (N,), fp32. Full logits exist only in chunks, which the backward computes again."""
    hidden_ND, tokens_N = answer_hidden(model, answers, rows)
    logits = logits_function(model)

    def part(hidden_nD: Tensor, tokens_n: Tensor) -> tuple[Tensor, Tensor]:
        logits_nV = logits(hidden_nD) / temperature
        return logits_nV.gather(-1, tokens_n[:, None])[:, 0] - logits_nV.logsumexp(-1), entropy(logits_nV)

    size = max(LOGIT_ELEMENTS // model.get_output_embeddings().weight.shape[0], 1)
    chunks = list(zip(hidden_ND.split(size), tokens_N.split(size)))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        found = [part(*chunk) for chunk in chunks]
    else:
        found = [checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])


@torch.no_grad()
def measure_all(
    answers: Answers, budget: int, measure: Callable[[Counts], Tensor], advance: Callable[[int], None]
) -> Tensor:
    """Run ``measure`` on the answer tokens of all rows, in parts, and return its values as (B, T).

    :param measure: rows -> (N,). :param budget: tokens of one forward, with padding. :param advance: called with the
        number of rows done after each part.
    """
    device = answers.ids_BL.device
    values_BT = torch.zeros(answers.mask_BT.shape, device=device)
    for part in batches_by_tokens(answers.bounds_B2[:, 1].tolist(), budget):
        rows = np.array(part)
        values_BT.view(-1)[answer_places(answers, rows, device)] = measure(rows).float()
        advance(len(part))
    return values_BT
