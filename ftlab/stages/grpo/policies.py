"""The policy as it is called beside training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CountedPositions:
    """A model, called with positions that begin at each row's first token, as ``generate`` has them."""

    def __init__(self, model: Any):
        self._model = model

    def __call__(self, attention_mask: Tensor, **inputs: Any) -> Any:
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return self._model(attention_mask=attention_mask, position_ids=position_ids, **inputs)


class StartPolicy:
    """The policy as it stood when this was made: the same modules, with what trains put back for a forward.

    Right for adapters of any kind, old and new, and for whole models, and at most one more copy of what trains; another
    adapter beside the policy's would be saved with it, and would take PiSSA's singular vectors out a second time.
    """

    def __init__(self, model: Any):
        self._model = model
        self._start = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Any:
        now = [parameter.data for parameter, _ in self._start]
        try:
            for parameter, start in self._start:
                parameter.data = start
            return self._model(**inputs)
        finally:
            for (parameter, _), data in zip(self._start, now):
                parameter.data = data
