"""log p of targets with as little memory and as few passes over the vocabulary as a gradient needs.

Shape suffixes: N scored positions, n those of a chunk, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


def with_gradients_at_once(
    hidden_ND: Tensor,
    chunks: Iterable[tuple[Tensor, Tensor]],
    part: Callable[[Tensor, Tensor], Tensor],
    trained: Sequence[Tensor] = (),
) -> Tensor:
    """What ``part`` gives of each chunk, shape (N,), its gradients computed at once: a row of D for each position, and of
    what trains in ``part`` the sum over all positions. No logits are left to the backward, and none are computed twice.

    :param chunks: of hidden states and targets, one after the other. :param part: (n, D), (n,) -> (n,), each position
        by itself. :param trained: parameters that ``part`` reads. Where there are any, the loss has to give each
        position the same weight: their gradient is then the sum times it.
    """
    logprobs: list[Tensor] = []
    gradients: list[Tensor] = []
    sums: list[Tensor] = []
    for hidden_nD, targets_n in chunks:
        hidden_nD = hidden_nD.detach().requires_grad_()
        logprobs_n = part(hidden_nD, targets_n)
        of_hidden_nD, *of_trained = torch.autograd.grad(logprobs_n.sum(), [hidden_nD, *trained])
        sums = [total.add_(one) for total, one in zip(sums, of_trained)] or of_trained
        logprobs.append(logprobs_n.detach())
        gradients.append(of_hidden_nD)
    found: Tensor = _WithGradients.apply(hidden_ND, torch.cat(logprobs), torch.cat(gradients), sums, *trained)
    return found


class _WithGradients(torch.autograd.Function):
    """Numbers whose gradients are known: the n-th depends on the n-th row of the hidden states, and on parameters."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, logprobs_N: Tensor, gradients_ND: Tensor, sums: list[Tensor], *trained: Tensor
    ) -> Tensor:
        ctx.save_for_backward(gradients_ND)
        ctx.sums = sums  # not saved as activations are, which may be offloaded
        return logprobs_N.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, ...]:
        (gradients_ND,) = ctx.saved_tensors
        of_hidden_ND = (gradients_ND * gradient_N[:, None]).to(gradients_ND.dtype)
        of_trained, ctx.sums = ctx.sums, None  # they are changed in place, and may become the parameters' gradients
        if of_trained and gradient_N.device.type == "cpu":  # elsewhere it would have to be waited for
            assert (gradient_N == gradient_N[0]).all(), "the loss has to give each position the same weight"
        return of_hidden_ND, None, None, None, *(total.mul_(gradient_N[0]) for total in of_trained)
