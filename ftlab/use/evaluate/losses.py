"""What the model gives to rows as they are: log-probabilities of what is learned of them.

Shape suffixes: S samples of a forward, N scored positions of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ftlab.data.packing.batches import batches_by_tokens
from ftlab.data.packing.collate import PackedCollator
from ftlab.data.packing.store import PackedRow, Sample
from ftlab.policy.from_run import TrainedPolicy
from ftlab.stages.losses import sums_by_segment
from ftlab.stages.trainer.forward import packed_logprobs
from ftlab.use.evaluate.rows import Scored


@dataclass(frozen=True)
class RowLoss:
    """:param nll: summed over the learned tokens, in nats; of a pair those of the chosen answer.
    :param tokens: how many those are. :param rejected: of a pair, the same sum of the rejected answer."""

    nll: float
    tokens: int
    rejected: float | None

    @property
    def prefers_chosen(self) -> bool | None:
        """Whether the chosen answer of a pair is the likelier one, the whole of each."""
        return None if self.rejected is None else self.nll < self.rejected


@torch.no_grad()
def row_losses(policy: TrainedPolicy, rows: Sequence[Scored], budget: int) -> Iterator[dict[int, RowLoss]]:
    """Yield, after each forward, the places among ``rows`` that are done with, and their losses. Rows of similar length
    run together.

    :param budget: tokens of a forward at most, padding included; a longer sample runs alone.
    """
    samples = [(place, at, sample) for place, row in enumerate(rows) for at, sample in enumerate(row.samples)]
    found: list[dict[int, float]] = [{} for _ in rows]
    for batch in batches_by_tokens([len(sample.input_ids) for *_, sample in samples], budget):
        sums_S = _forward(policy, [samples[i][-1] for i in batch])
        done: dict[int, RowLoss] = {}
        for i, value in zip(batch, sums_S):
            place, at, _ = samples[i]
            found[place][at] = -value
            if len(found[place]) == len(rows[place].samples):
                done[place] = _loss(rows[place], [found[place][number] for number in sorted(found[place])])
        yield done


def _loss(row: Scored, nlls: Sequence[float]) -> RowLoss:
    if row.is_pair:
        return RowLoss(nlls[0], row.samples[0].trained, nlls[1])
    return RowLoss(sum(nlls), sum(sample.trained for sample in row.samples), None)


@torch.no_grad()
def log_probabilities(policy: TrainedPolicy, samples: Sequence[Sample], budget: int) -> list[float]:
    """The sum over what is learned of each sample, in nats. :param budget: as of :func:`row_losses`."""
    found = [0.0] * len(samples)
    for batch in batches_by_tokens([len(sample.input_ids) for sample in samples], budget):
        for i, value in zip(batch, _forward(policy, [samples[i] for i in batch])):
            found[i] = value
    return found


def _forward(policy: TrainedPolicy, samples: Sequence[Sample]) -> list[float]:
    """The same of one batch."""
    collate = PackedCollator(policy.tokenizer.pad_token_id)
    batch = collate([PackedRow((sample,)) for sample in samples])
    moved = {key: value.to(policy.model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    with policy.autocast():
        found_N = packed_logprobs(policy.model, policy.model, moved)
    found: list[float] = sums_by_segment(found_N.cpu().double(), batch["segments"], len(samples)).tolist()
    return found
