"""Losses on answers that are better or worse: rm, dpo and its kin, orpo, kto."""
# ruff: noqa: N802, N815 -- shape suffixes

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ftlab.errors import ConfigError, Mistake
from ftlab.stages.losses.basics import upcast

REFERENCE_FREE = frozenset({"simpo", "cpo"})


@dataclass(frozen=True)
class Preference:
    """:param losses_P: one for each pair. :param chosen_rewards_P: what the loss takes as rewards, detached."""

    losses_P: Tensor
    chosen_rewards_P: Tensor
    rejected_rewards_P: Tensor

    @property
    def margins_P(self) -> Tensor:
        return self.chosen_rewards_P - self.rejected_rewards_P

    @property
    def accuracies_P(self) -> Tensor:
        """1.0 where chosen is rewarded more than rejected; a tie is none."""
        return (self.chosen_rewards_P > self.rejected_rewards_P).float()


# ------------------------------------------------------------------------------------------------------------- reward


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor, margin_P: Tensor | float = 0.0) -> Preference:
    """-log sigmoid(chosen - rejected - margin), the loss of InstructGPT's reward model
    (https://arxiv.org/abs/2203.02155, eq. 1), with the margin of Llama 2 (https://arxiv.org/abs/2307.09288, eq. 2).

    :param chosen_P: scores of the chosen answers. :param margin_P: by which chosen should be above rejected.
    """
    assert chosen_P.shape == rejected_P.shape
    chosen_P, rejected_P = upcast(chosen_P), upcast(rejected_P)
    return Preference(-logsigmoid(chosen_P - rejected_P - margin_P), chosen_P.detach(), rejected_P.detach())


# ---------------------------------------------------------------------------------------------------------------- dpo


@dataclass(frozen=True)
class _Ratios:
    """What the DPO family's losses are made of.

    :param chosen_P, rejected_P: log-ratios of policy to reference, summed over tokens; without a reference the policy's
        own log-probabilities. :param chosen_mean_P, rejected_mean_P: the same per token.
    """

    chosen_P: Tensor
    rejected_P: Tensor
    chosen_mean_P: Tensor | None
    rejected_mean_P: Tensor | None
    beta: float
    label_smoothing: float
    simpo_gamma: float

    @property
    def logits_P(self) -> Tensor:
        return self.beta * (self.chosen_P - self.rejected_P)

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        assert self.chosen_mean_P is not None and self.rejected_mean_P is not None, "this loss needs the lengths"
        return self.chosen_mean_P, self.rejected_mean_P


def _smoothed(logits_P: Tensor, smoothing: float) -> Tensor:
    loss_P = -logsigmoid(logits_P)
    return loss_P if smoothing == 0 else (1 - smoothing) * loss_P - smoothing * logsigmoid(-logits_P)


def _sigmoid(ratios: _Ratios) -> Tensor:
    return _smoothed(ratios.logits_P, ratios.label_smoothing)


def _hinge(ratios: _Ratios) -> Tensor:
    return torch.relu(1 - ratios.logits_P)


def _ipo(ratios: _Ratios) -> Tensor:
    chosen_P, rejected_P = ratios.means
    return (chosen_P - rejected_P - 1 / (2 * ratios.beta)).square()


def _robust(ratios: _Ratios) -> Tensor:
    logits_P, smoothing = ratios.logits_P, ratios.label_smoothing
    return (smoothing * logsigmoid(-logits_P) - (1 - smoothing) * logsigmoid(logits_P)) / (1 - 2 * smoothing)


def _exo(ratios: _Ratios) -> Tensor:
    logits_P, smoothing = ratios.logits_P, ratios.label_smoothing
    if not smoothing > 0:
        reason = "exo needs more than 0: how likely a pair's label is wrong. The paper takes 1e-3"
        raise ConfigError([Mistake("stage.label_smoothing", reason, smoothing)])
    chosen_P = logits_P.sigmoid() * (logsigmoid(logits_P) - math.log1p(-smoothing))
    return chosen_P + (-logits_P).sigmoid() * (logsigmoid(-logits_P) - math.log(smoothing))


def _nca(ratios: _Ratios) -> Tensor:
    chosen_P, rejected_P = ratios.beta * ratios.chosen_P, ratios.beta * ratios.rejected_P
    return -logsigmoid(chosen_P) - 0.5 * logsigmoid(-chosen_P) - 0.5 * logsigmoid(-rejected_P)


def _apo_zero(ratios: _Ratios) -> Tensor:
    return (-ratios.beta * ratios.chosen_P).sigmoid() + (ratios.beta * ratios.rejected_P).sigmoid()


def _simpo(ratios: _Ratios) -> Tensor:
    chosen_P, rejected_P = ratios.means
    return _smoothed(ratios.beta * (chosen_P - rejected_P) - ratios.simpo_gamma, ratios.label_smoothing)


_DPO: dict[str, Callable[[_Ratios], Tensor]] = {
    "sigmoid": _sigmoid,
    "ipo": _ipo,
    "hinge": _hinge,
    "robust": _robust,
    "exo": _exo,
    "nca": _nca,
    "apo_zero": _apo_zero,
    "simpo": _simpo,
    "cpo": _sigmoid,
}


def dpo(
    policy_chosen_P: Tensor,
    policy_rejected_P: Tensor,
    reference_chosen_P: Tensor | None,
    reference_rejected_P: Tensor | None,
    *,
    beta: float,
    loss_type: str,
    label_smoothing: float = 0.0,
    simpo_gamma: float = 0.0,
    chosen_lengths_P: Tensor | None = None,
    rejected_lengths_P: Tensor | None = None,
) -> Preference:
    """Direct preference optimisation, in one of the ways that ``stage.loss_type`` names. With r the log-ratio of policy
    to reference, z = beta (r_chosen - r_rejected), e the label smoothing, p sums and m means over tokens:

    ======== ============================================== ========================================================
    sigmoid  -(1-e) log s(z) - e log s(-z)                  https://arxiv.org/abs/2305.18290, eq. 7; with e > 0
                                                            conservative DPO, https://ericmitchell.ai/cdpo.pdf
    ipo      (m r_chosen - m r_rejected - 1/(2 beta))^2     https://arxiv.org/abs/2310.12036, eq. 17
    hinge    max(0, 1 - z)                                  https://arxiv.org/abs/2305.10425; 2309.06657, eq. 11
    robust   (-(1-e) log s(z) + e log s(-z)) / (1 - 2e)     https://arxiv.org/abs/2403.00409; below 0 at times
    exo      KL of (s(z), s(-z)) from (1-e, e), e > 0       https://arxiv.org/abs/2402.00856, eq. 16
    nca      -log s(c) - log s(-c) / 2 - log s(-r) / 2      https://arxiv.org/abs/2402.05369, with c, r = beta r_*
    apo_zero s(-c) + s(r)                                   https://arxiv.org/abs/2408.06266: chosen up, rejected down
    simpo    as sigmoid, z = beta (m p_c - m p_r) - gamma   https://arxiv.org/abs/2405.14734, eq. 6
    cpo      as sigmoid, z = beta (p_c - p_r)               https://arxiv.org/abs/2401.08417, without its likelihood
                                                            term, which is ``stage.sft_weight`` = 1
    ======== ============================================== ========================================================

    Equal to TRL 1.16 (``exo_pair``, ``nca_pair``; simpo and cpo in its CPO trainer), but for label smoothing under
    sigmoid, which that version ignores. IPO divides by the lengths as TRL does, with whose authors that was agreed.

    :param policy_chosen_P: log p(answer | prompt), summed over the scored tokens, for simpo too.
    :param reference_chosen_P: the same of the reference; None for those that do without one.
    :param beta: how closely the policy is held to the reference: more holds it closer.
    :param chosen_lengths_P: how many scored tokens each answer has; ipo and simpo need them.
    :returns: rewards are beta r (beta m p under simpo, beta p under cpo).
    :raises ConfigError: exo without label smoothing.
    """
    assert loss_type in _DPO, loss_type
    assert policy_chosen_P.shape == policy_rejected_P.shape
    chosen_P, rejected_P = upcast(policy_chosen_P), upcast(policy_rejected_P)
    if loss_type not in REFERENCE_FREE:
        assert reference_chosen_P is not None and reference_rejected_P is not None, "this loss needs a reference"
        assert reference_chosen_P.shape == reference_rejected_P.shape == chosen_P.shape
        chosen_P, rejected_P = chosen_P - upcast(reference_chosen_P), rejected_P - upcast(reference_rejected_P)
    chosen_mean_P = None if chosen_lengths_P is None else chosen_P / chosen_lengths_P.clamp(min=1)
    rejected_mean_P = None if rejected_lengths_P is None else rejected_P / rejected_lengths_P.clamp(min=1)
    ratios = _Ratios(chosen_P, rejected_P, chosen_mean_P, rejected_mean_P, beta, label_smoothing, simpo_gamma)
    losses_P = _DPO[loss_type](ratios)
    rewards = ratios.means if loss_type == "simpo" else (chosen_P, rejected_P)
    return Preference(losses_P, beta * rewards[0].detach(), beta * rewards[1].detach())


# --------------------------------------------------------------------------------------------------------------- orpo


@dataclass(frozen=True)
class OddsRatio(Preference):
    """:param nll_P: the likelihood term, part of the losses. :param log_odds_P: log of chosen's over rejected's."""

    nll_P: Tensor
    log_odds_P: Tensor


def log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, precise at both ends; what is nearer to 0 than one rounding is taken to be there."""
    values = values.clamp(max=-torch.finfo(values.dtype).eps)
    return torch.where(values > -math.log(2), (-torch.expm1(values)).log(), torch.log1p(-values.exp()))


def orpo(chosen_mean_P: Tensor, rejected_mean_P: Tensor, beta: float, chosen_nll_P: Tensor | None = None) -> OddsRatio:
    """Odds-ratio preference optimisation (https://arxiv.org/abs/2403.07691, eq. 6 and 7): the chosen answer's negative
    log-likelihood plus beta times -log sigmoid(log odds(chosen) - log odds(rejected)), odds(p) = p / (1 - p), with
    p the geometric mean of an answer's token probabilities.

    :param chosen_mean_P: log p(answer | prompt) as a mean over its scored tokens, at most 0.
    :param beta: the odds ratio's weight, lambda in the paper.
    :param chosen_nll_P: the likelihood term of each pair; None for the paper's, -``chosen_mean_P``. TRL averages over
        the tokens of the batch, those of the prompt too.
    :returns: rewards are beta times the means.
    """
    assert chosen_mean_P.shape == rejected_mean_P.shape
    chosen_P, rejected_P = upcast(chosen_mean_P), upcast(rejected_mean_P)
    log_odds_P = chosen_P - rejected_P - (log1mexp(chosen_P) - log1mexp(rejected_P))
    nll_P = -chosen_P if chosen_nll_P is None else upcast(chosen_nll_P)
    return OddsRatio(
        losses_P=nll_P - beta * logsigmoid(log_odds_P),
        chosen_rewards_P=beta * chosen_P.detach(),
        rejected_rewards_P=beta * rejected_P.detach(),
        nll_P=nll_P.detach(),
        log_odds_P=log_odds_P.detach(),
    )


# ---------------------------------------------------------------------------------------------------------------- kto


@dataclass(frozen=True)
class Labelled:
    """:param losses_S: one for each answer, weighted. :param rewards_S: beta times the log-ratios, detached."""

    losses_S: Tensor
    rewards_S: Tensor


def kto_kl(policy_kl_S: Tensor, reference_kl_S: Tensor) -> Tensor:
    """KTO's reference point: an estimate of KL(policy, reference), a scalar, at least 0, detached.

    :param policy_kl_S: log p(answer | prompt), summed over tokens, of prompts with answers that are not theirs; with
        several devices those of all of them, since the mean is cut off at 0 only as a whole. None at all gives 0.
    """
    assert policy_kl_S.shape == reference_kl_S.shape
    ratios_S = (upcast(policy_kl_S) - upcast(reference_kl_S)).detach()
    return (ratios_S.sum() / max(ratios_S.numel(), 1)).clamp(min=0)


def kto(
    policy_S: Tensor,
    reference_S: Tensor,
    labels_S: Tensor,
    kl: Tensor | float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Labelled:
    """Kahneman-Tversky optimisation (https://arxiv.org/abs/2402.01306, section 4), with r the log-ratio of policy to
    reference: 1 - sigmoid(beta (r - kl)) for good answers, 1 - sigmoid(beta (kl - r)) for bad ones, times a weight.
    Equal to TRL 1.16's KTOTrainer, which averages over the answers.

    :param policy_S: log p(answer | prompt), summed over the scored tokens. :param labels_S: whether an answer is good.
    :param kl: of :func:`kto_kl`.
    """
    assert policy_S.shape == reference_S.shape == labels_S.shape
    good_S = labels_S.bool()
    ratios_S = upcast(policy_S) - upcast(reference_S)
    gains_S = beta * torch.where(good_S, ratios_S - kl, kl - ratios_S)
    weights_S = torch.where(good_S, desirable_weight, undesirable_weight)
    return Labelled(weights_S * torch.sigmoid(-gains_S), beta * ratios_S.detach())
