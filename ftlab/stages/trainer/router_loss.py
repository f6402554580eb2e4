"""The load-balancing loss of mixtures of experts: what makes routers send tokens to all experts about equally often.

Shape suffixes: T tokens of a batch, padding among them, E experts; B rows of L tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ftlab.errors import ConfigError, Mistake
from ftlab.model.modules import bare_model
from ftlab.schema import Run

_KEY = "train.router_aux_loss_coef"


def router_coefficient(run: Run, model: Any) -> float:
    """The weight of the load-balancing loss beside the stage's own; 0 for none: ``train.router_aux_loss_coef``, or,
    where that is null, the model's own, if its config asks for it with ``output_router_logits``.

    :raises ConfigError: the model has no routers whose logits it gives.
    """
    config = model.config.get_text_config()
    given = run.train.router_aux_loss_coef
    if run.stage.name == "ppo":
        return 0.0
    if given is None:
        return float(config.router_aux_loss_coef) if getattr(config, "output_router_logits", False) else 0.0
    if given and not hasattr(config, "output_router_logits"):
        reason = (
            f"{run.model.name} ({config.model_type}) gives no router logits, so there is nothing to balance; leave "
        )
        raise ConfigError([Mistake(_KEY, f"{reason}it at null", given)])
    return given


class RouterLoss:
    """The load-balancing loss of a model, over the tokens that are no padding.

    Equations 4 to 6 of Fedus et al. 2021 (https://arxiv.org/abs/2101.03961), for more than one expert per token as
    Mixtral has it: E * sum_e f_e * P_e, with f_e the share of tokens that are sent to expert e, P_e the mean
    probability that its router gives e, both over the tokens of all layers. It is ``experts_per_token``
    where tokens are spread evenly, and larger where what is likely is also what is taken.

    :param model: a causal language model of transformers, perhaps with adapters.
    """

    def __init__(self, model: Any, coefficient: float):
        self.coefficient = coefficient
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._compute = sys.modules[type(base).__module__].load_balancing_loss_func
        self._experts, self._per_token = base.num_experts, base.num_experts_per_tok

    @contextmanager
    def recording(self, model: Any) -> Iterator[list[tuple[Tensor, ...]]]:
        """A list that gets the router logits of every call of the model meanwhile: of each layer, shape (T, E).

        Asked of the decoder: the whole model would go on to take a loss of its own from them, padding included.
        """
        calls: list[tuple[Tensor, ...]] = []
        decoder: Any = bare_model(model).get_decoder()

        def ask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "output_router_logits": True}

        handles = (
            decoder.register_forward_pre_hook(ask, with_kwargs=True),
            decoder.register_forward_hook(lambda module, args, output: calls.append(output.router_logits)),
        )
        try:
            yield calls
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, calls: list[tuple[Tensor, ...]], counted_T: Tensor) -> Tensor:
        """The loss, a scalar. :param calls: as recorded. :param counted_T: 1 for each of their tokens that counts."""
        layers = tuple(torch.cat([logits.reshape(-1, self._experts) for logits in layer]) for layer in zip(*calls))
        loss: Tensor = self._compute(layers, self._experts, self._per_token, counted_T)
        return loss


def counted_tokens(batch: dict[str, Any], every: int = 1) -> Tensor:
    """1 for each token of a packed batch that belongs to a sample, 0 for padding, in the order in which the model is
    called with them, shape (T,). :param every: count each so manieth sample alone.
    """
    starts_S, lengths_S = batch["starts"][::every], batch["lengths"][::every]
    steps_T = torch.zeros(batch["input_ids"].numel() + 1, dtype=torch.float32, device=starts_S.device)
    steps_T.index_add_(0, starts_S, torch.ones_like(starts_S, dtype=torch.float32))
    steps_T.index_add_(0, starts_S + lengths_S, -torch.ones_like(starts_S, dtype=torch.float32))
    counted_T = steps_T.cumsum(0)[:-1]
    if batch.get("isolation") != "one_per_row":
        return counted_T
    calls = [places_sl.reshape(-1) for places_sl in batch["calls"]]
    return torch.cat([counted_T[places.clamp(min=0)] * (places >= 0) for places in calls])
