"""log p of targets with as little memory and as few passes over the vocabulary as a gradient needs.

Shape suffixes: N scored positions, n those of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def target_logprobs(logits_nV: Tensor, targets_n: Tensor, smoothing: float = 0.0) -> Tensor:
    """log softmax of the logits at the targets, shape (n,), worked out in the memory of the logits: nobody may read
    them afterwards.

    :param logits_nV: fp32. :param smoothing: see :func:`ftlab.stages.trainer.forward.chunked_logprobs`.
    """
    found: Tensor = _TargetLogprobs.apply(logits_nV, targets_n, smoothing)
    return found


class _TargetLogprobs(torch.autograd.Function):
    """One tensor of the logits' size for forward and backward, where autograd would hold four."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, targets_n: Tensor, smoothing: float) -> Tensor:
        wanted_n = logits_nV.gather(-1, targets_n[:, None])[:, 0]
        if smoothing:
            wanted_n = (1 - smoothing) * wanted_n + smoothing * logits_nV.mean(-1)
        most_n = logits_nV.amax(-1)
        exponentials_nV = logits_nV.sub_(most_n[:, None]).exp_()
        sums_n = exponentials_nV.sum(-1)
        ctx.smoothing = smoothing
        ctx.save_for_backward(exponentials_nV, sums_n, targets_n)
        return wanted_n - (most_n + sums_n.log())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_n: Tensor) -> tuple[Tensor, None, None]:
        """d/dz of (1 - s) z_target + s mean_v z_v - log sum_v exp z_v, times what comes from above."""
        exponentials_nV, sums_n, targets_n = ctx.saved_tensors
        gradient_nV = exponentials_nV.mul_((-gradient_n / sums_n)[:, None])
        if ctx.smoothing:
            gradient_nV.add_((gradient_n * (ctx.smoothing / gradient_nV.shape[-1]))[:, None])
        gradient_nV.scatter_add_(-1, targets_n[:, None], (gradient_n * (1 - ctx.smoothing))[:, None])
        return gradient_nV, None, None


def through_frozen_head(
    hidden_ND: Tensor, chunks: Iterable[tuple[Tensor, Tensor]], part: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What ``part`` gives of each chunk, shape (N,), where nothing in it trains: its gradient is computed at once, and
    all that is kept of it is a row of D for each position. No logits are left to the backward, and none are computed
    twice.

    :param chunks: of hidden states and targets, one after the other. :param part: (n, D), (n,) -> (n,), each position
        by itself.
    """
    logprobs: list[Tensor] = []
    gradients: list[Tensor] = []
    for hidden_nD, targets_n in chunks:
        hidden_nD = hidden_nD.detach().requires_grad_()
        logprobs_n = part(hidden_nD, targets_n)
        gradients += torch.autograd.grad(logprobs_n.sum(), hidden_nD)
        logprobs.append(logprobs_n.detach())
    found: Tensor = _WithGradients.apply(hidden_ND, None, torch.cat(logprobs), torch.cat(gradients), None)
    return found


def through_trained_head(
    hidden_ND: Tensor,
    chunks: Iterable[tuple[Tensor, Tensor]],
    head: torch.nn.Linear,
    part: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The same of a head whose weight trains, without a bias. The weight's gradient is summed over all positions, and
    multiplied in the backward by the one weight that the loss has to give them all.

    :param part: what the head gives (n, V), targets (n,) -> (n,).
    """
    logprobs: list[Tensor] = []
    gradients: list[Tensor] = []
    total_VD: Tensor | None = None
    for hidden_nD, targets_n in chunks:
        with torch.no_grad():
            outputs_nV = head(hidden_nD)
        logprobs_n = part(outputs_nV.requires_grad_(), targets_n)
        (gradient_nV,) = torch.autograd.grad(logprobs_n.sum(), outputs_nV)
        with torch.no_grad():
            gradients.append((gradient_nV @ head.weight).to(hidden_ND.dtype))
            total_VD = _plus_product(total_VD, gradient_nV, hidden_nD, head.weight.dtype)
        logprobs.append(logprobs_n.detach())
        del outputs_nV, logprobs_n, gradient_nV  # or they would be there beside the next chunk's
    found: Tensor = _WithGradients.apply(hidden_ND, head.weight, torch.cat(logprobs), torch.cat(gradients), total_VD)
    return found


def _plus_product(total_VD: Tensor | None, gradient_nV: Tensor, hidden_nD: Tensor, dtype: torch.dtype) -> Tensor:
    if total_VD is None:
        return (gradient_nV.T @ hidden_nD).to(dtype)
    if gradient_nV.dtype == hidden_nD.dtype == dtype:
        return total_VD.addmm_(gradient_nV.T, hidden_nD)  # without a matrix of that size beside
    return total_VD.add_(gradient_nV.T @ hidden_nD)


class _WithGradients(torch.autograd.Function):
    """Numbers whose gradients are known: of the n-th those of the n-th row of the hidden states; of a weight their
    sum, where the loss gives all of them one weight."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor | None,
        logprobs_N: Tensor,
        gradients_ND: Tensor,
        total_VD: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(gradients_ND)
        ctx.total_VD = total_VD  # not saved as activations are, which may be offloaded
        return logprobs_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        (gradients_ND,) = ctx.saved_tensors
        of_hidden_ND = (gradients_ND * gradient_N[:, None]).to(gradients_ND.dtype)
        total_VD, ctx.total_VD = ctx.total_VD, None  # changed in place, and perhaps the weight's own gradient next
        if total_VD is None:
            return of_hidden_ND, None, None, None, None
        if gradient_N.device.type == "cpu":  # elsewhere it would have to be waited for
            assert (gradient_N == gradient_N[0]).all(), "the loss has to give each position the same weight"
        return of_hidden_ND, total_VD.mul_(gradient_N[0]), None, None, None
