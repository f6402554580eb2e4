"""Which rows a micro-batch takes: functions of the seed and the step alone, so that a run that was stopped and resumed
takes the same. Torch is imported where its random numbers are drawn, and not before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

LOGIT_ELEMENTS = 1 << 25  # of one chunk of logits: 128 MiB in fp32
PAIRED_STAGES = ("rm", "dpo", "orpo", "kto")  # whose rows have two samples even without packing


def rows_of_step(step: int, rows: int, batch: int, accumulation: int, devices: int, seed: int) -> list[list[int]]:
    """Indices of the rows of an optimizer step, counted from 1, one list for each micro-batch of each device: the order
    of accelerate's seedable sampler, drawn anew each epoch, dealt out batch by batch.
    """
    batches = math.ceil(math.ceil(rows / batch) / devices)  # of each device, in an epoch
    steps = math.ceil(batches / accumulation)
    epoch, at = divmod(step - 1, steps)
    order = _order(rows, seed + epoch)
    first, end = at * accumulation * devices, min((at + 1) * accumulation, batches) * devices
    return [order[i * batch : (i + 1) * batch].tolist() for i in range(first, end) if i * batch < rows]


def batches_of_rank(order: Sequence[int], batch: int, rank: int, ranks: int) -> list[list[int]]:
    """The micro-batches of one process of several, which take turns at ``order``. All have as many: an empty one
    where the rows do not go round.
    """
    cut = [[*order[at : at + batch]] for at in range(0, len(order), batch)]
    cut += [[] for _ in range(-len(cut) % ranks)]
    return cut[rank::ranks]


def shuffled(count: int, seed: int) -> list[int]:
    found: list[int] = _order(count, seed).tolist()
    return found


@lru_cache(maxsize=2)  # asked for in every step of an epoch
def _order(count: int, seed: int) -> Any:
    """int64, shape (count,)."""
    import torch

    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
