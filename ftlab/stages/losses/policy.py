"""Losses on answers that the policy wrote itself: ppo and grpo."""
# ruff: noqa: N815 -- shape suffixes

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ftlab.errors import DivergedError
from ftlab.stages.losses.basics import upcast

LIMIT = 20.0  # past this log-ratio exp goes on as its tangent: no overflow, and still a gradient


@dataclass(frozen=True)
class Clipped:
    """Of each token, shaped as what came in, 0 outside the mask.

    :param clipped_BT: 1.0 where the clipped term is the one that counts and so nothing is learned.
    """

    losses_BT: Tensor
    clipped_BT: Tensor


@dataclass(frozen=True)
class Surrogate(Clipped):
    """:param kl_BT: an estimate of the KL divergence in nats per token, at least 0, detached, 0 outside the mask: of
    old and new policy in ppo, of policy and reference in grpo (0 without one)."""

    kl_BT: Tensor


def _exp(values: Tensor) -> Tensor:
    return values.clamp(max=LIMIT).exp() * (1 + (values - LIMIT).clamp(min=0))


def _divergence(log_ratios: Tensor) -> Tensor:
    """exp(x) - 1 - x, never below 0: the k3 estimator of http://joschu.net/blog/kl-approx.html."""
    tangent = math.exp(LIMIT) * (log_ratios - LIMIT).clamp(min=0)
    return torch.expm1(log_ratios.clamp(max=LIMIT)) + tangent - log_ratios


def _inside(values: Tensor, mask: Tensor) -> Tensor:
    return upcast(values).masked_fill(~mask, 0.0)


# ---------------------------------------------------------------------------------------------------------------- ppo


def kl_penalised_rewards(
    score_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor, kl_coefficient: float
) -> tuple[Tensor, Tensor]:
    """Reward of each token: the score at an answer's last one, minus at every one the coefficient times
    log p(policy) - log p(reference) (https://arxiv.org/abs/1909.08593, eq. 2).

    :param score_B: of each whole answer; one without tokens gets none.
    :param logprobs_BT: of the sampled tokens, as they were sampled. :param mask_BT: which positions are answer tokens.
    :returns: rewards and log-ratios, both (B, T), detached, 0 outside the mask. Log-ratios summed over T and averaged
        over B are the KL that :class:`AdaptiveKL` wants.
    """
    assert logprobs_BT.shape == reference_BT.shape == mask_BT.shape and score_B.shape == mask_BT.shape[:1]
    mask_BT = mask_BT.bool()
    kl_BT = (_inside(logprobs_BT, mask_BT) - _inside(reference_BT, mask_BT)).detach()
    tokens_left_BT = mask_BT.flip(-1).cumsum(-1).flip(-1)
    last_BT = mask_BT & (tokens_left_BT == 1)
    return torch.where(last_BT, upcast(score_B).detach()[:, None], 0.0) - kl_coefficient * kl_BT, kl_BT


def gae(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (https://arxiv.org/abs/1506.02438, eq. 16): A_t = d_t + gamma lam A_(t+1) with
    d_t = r_t + gamma V_(t+1) - V_t, and V = 0 after an answer's last token, also of one that was cut off.

    Positions outside the mask do not exist: they are stepped over without discount, wherever they are.

    :returns: advantages, not whitened, and returns (advantage + value), the target of the values; both (B, T),
        detached, 0 outside the mask.
    """
    assert rewards_BT.shape == values_BT.shape == mask_BT.shape
    mask_BT = mask_BT.bool()
    rewards_BT, values_BT = _inside(rewards_BT, mask_BT).detach(), _inside(values_BT, mask_BT).detach()
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = advantage_B = values_BT.new_zeros(len(values_BT))
    for t in reversed(range(values_BT.shape[1])):
        here_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantage_B = torch.where(here_B, delta_B + gamma * lam * advantage_B, advantage_B)
        next_value_B = torch.where(here_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = advantage_B
    advantages_BT = advantages_BT.masked_fill(~mask_BT, 0.0)
    return advantages_BT, advantages_BT + values_BT


def _surrogate(
    logprobs_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip_range: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO's clipped objective, negated; where it is clipped; and the log-ratios of new to old policy."""
    log_ratios_BT = _inside(logprobs_BT, mask_BT) - _inside(old_BT, mask_BT).detach()
    advantages_BT = _inside(advantages_BT, mask_BT).detach()
    ratios_BT = _exp(log_ratios_BT)
    free_BT = ratios_BT * advantages_BT
    bound_BT = ratios_BT.clamp(1 - clip_range, 1 + clip_range) * advantages_BT
    return -torch.minimum(free_BT, bound_BT), (bound_BT < free_BT).float(), log_ratios_BT


def policy_loss(
    logprobs_BT: Tensor, old_logprobs_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip_range: float
) -> Surrogate:
    """PPO's clipped objective (https://arxiv.org/abs/1707.06347, eq. 7), negated: -min(q A, clip(q, 1 - c, 1 + c) A)
    with q the probability ratio of new to old policy. Any shape, as long as all have it.

    :param old_logprobs_BT: of the policy that sampled, at the same temperature.
    """
    assert logprobs_BT.shape == old_logprobs_BT.shape == advantages_BT.shape == mask_BT.shape
    losses_BT, clipped_BT, log_ratios_BT = _surrogate(
        logprobs_BT, old_logprobs_BT, advantages_BT, mask_BT.bool(), clip_range
    )
    return Surrogate(losses_BT, clipped_BT, _divergence(log_ratios_BT.detach()))


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, value_clip_range: float
) -> Clipped:
    """Half the squared error, of the value or of the value kept within the range around the old one, whichever is more:
    what OpenAI's implementations do (https://arxiv.org/abs/2005.12729, section 3). Any shape, as long as all have it.
    """
    assert values_BT.shape == old_values_BT.shape == returns_BT.shape == mask_BT.shape
    mask_BT = mask_BT.bool()
    values_BT, old_BT = _inside(values_BT, mask_BT), _inside(old_values_BT, mask_BT).detach()
    returns_BT = _inside(returns_BT, mask_BT).detach()
    # A value within the range stays what it is: old + (value - old) would be off by rounding, and count as clipped.
    kept_BT = values_BT.clamp(old_BT - value_clip_range, old_BT + value_clip_range)
    free_BT, bound_BT = (values_BT - returns_BT).square(), (kept_BT - returns_BT).square()
    return Clipped(0.5 * torch.maximum(free_BT, bound_BT), (bound_BT > free_BT).float())


class AdaptiveKL:
    """The KL coefficient: raised while the policy is further from its reference than wanted, lowered while it is nearer
    (https://arxiv.org/abs/1909.08593, section 2.2): c <- c (1 + gain e), e = (kl - target) / target within +-0.2.

    :param coefficient: to start with; one of 0 stays 0. :param target: KL in nats per answer; None for no change ever.
    """

    def __init__(self, coefficient: float, target: float | None = None, gain: float = 0.1):
        self.coefficient, self.target, self.gain = coefficient, target, gain

    def update(self, kl: float) -> float:
        """The coefficient after rollouts whose mean KL, summed over an answer's tokens, was ``kl``.

        :raises DivergedError: it is no number.
        """
        if math.isnan(kl):
            raise DivergedError("The KL divergence of policy and reference is no longer a number.")
        if self.target is not None:
            error = min(max((kl - self.target) / self.target, -0.2), 0.2)
            self.coefficient *= 1 + self.gain * error
        return self.coefficient

    def state_dict(self) -> dict[str, float]:
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coefficient = state["coefficient"]


# --------------------------------------------------------------------------------------------------------------- grpo


def group_advantages(rewards_B: Tensor, num_generations: int, eps: float = 1e-4) -> Tensor:
    """(reward - mean) / (std + eps) within each prompt's group, shape (B,), detached
    (https://arxiv.org/abs/2402.03300, section 4.1.2). The standard deviation is the sample's (n - 1), as in TRL.

    :param rewards_B: the groups one after the other. NaN is an answer without a reward: its group does without it, and
        its advantage is 0, as is that of an answer alone.
    :raises ValueError: the rewards are not whole groups.
    """
    if len(rewards_B) % num_generations:
        raise ValueError(f"{len(rewards_B)} rewards are not whole groups of {num_generations}")
    rewards_BG = upcast(rewards_B).detach().view(-1, num_generations)
    known_BG = ~rewards_BG.isnan()
    count_B1 = known_BG.sum(1, keepdim=True)
    mean_B1 = rewards_BG.nansum(1, keepdim=True) / count_B1.clamp(min=1)
    centred_BG = (rewards_BG - mean_B1).masked_fill(~known_BG, 0.0)
    std_B1 = (centred_BG.square().sum(1, keepdim=True) / (count_B1 - 1).clamp(min=1)).sqrt()
    return (centred_BG / (std_B1 + eps)).flatten()


def grpo(
    logprobs_BT: Tensor,
    old_BT: Tensor,
    reference_BT: Tensor | None,
    advantages_B: Tensor,
    mask_BT: Tensor,
    epsilon: float,
    beta: float,
) -> Surrogate:
    """Group relative policy optimisation (https://arxiv.org/abs/2402.03300, eq. 3 and 4): PPO's clipped objective
    with the answer's advantage at each of its tokens, plus beta times the KL divergence from the reference.

    Summed and divided by the answer tokens of the global batch it is TRL 1.16's default ``loss_type="dapo"``
    (https://arxiv.org/abs/2503.14476, eq. 8).

    :param old_BT: of the policy that sampled. :param reference_BT: None where beta is 0.
    """
    assert logprobs_BT.shape == old_BT.shape == mask_BT.shape and advantages_B.shape == mask_BT.shape[:1]
    mask_BT = mask_BT.bool()
    advantages_BT = advantages_B[:, None].expand_as(mask_BT)
    losses_BT, clipped_BT, _ = _surrogate(logprobs_BT, old_BT, advantages_BT, mask_BT, epsilon)
    if beta == 0:
        return Surrogate(losses_BT, clipped_BT, torch.zeros_like(losses_BT))
    assert reference_BT is not None and reference_BT.shape == mask_BT.shape, "a KL penalty needs a reference"
    kl_BT = _divergence(_inside(reference_BT, mask_BT).detach() - _inside(logprobs_BT, mask_BT))
    return Surrogate(losses_BT + beta * kl_BT, clipped_BT, kl_BT.detach())
