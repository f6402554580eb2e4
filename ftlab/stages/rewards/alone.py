"""A reward model that stands alone, without a policy beside it. Nothing is imported before one is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ftlab.schema import Run

# prompt ids, completion ids -> scores
Judge = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], list[float]]


def load_judge(config: Run, folder: str, spec: str, tokenizer: Any) -> Judge:
    """:param folder: a run directory, or the folder of weights. :param spec: what the user typed for it.

    :raises NotReadyError: there is none, or it reads other tokens.
    """
    from ftlab.model.load import uses_cpu
    from ftlab.stages.rewards.models import load

    return load(config, folder, spec, None, _Place(uses_cpu(config)), tokenizer, None)


class _Place:
    """In the place of a policy: where a reward model is to be. :ivar device: this machine's."""

    def __init__(self, on_cpu: bool):
        import torch

        self.device = torch.device("cpu") if on_cpu else torch.accelerator.current_accelerator()
