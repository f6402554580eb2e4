"""Every stage's loss as a pure function of log-probabilities, scores and values.

Shape suffixes: N scored tokens, S sequences (segments of the packed rows), P pairs, B rollouts, T tokens of the longest
one, V vocabulary. Losses are per pair, per sequence or per token, not reduced: a trainer sums them and divides by what
the whole global batch holds, so that the result does not depend on micro-batches or devices. Metrics are detached.

Whatever comes in, fp32 is computed (float64 stays as it is), and extreme inputs give finite losses and gradients.
"""

from ftlab.stages.losses.basics import (
    cross_entropy,
    entropy,
    lengths_of_segments,
    masked_mean,
    means_by_segment,
    sums_by_segment,
    whiten,
)
from ftlab.stages.losses.policy import (
    AdaptiveKL,
    Clipped,
    Surrogate,
    gae,
    group_advantages,
    grpo,
    kl_penalised_rewards,
    policy_loss,
    value_loss,
)
from ftlab.stages.losses.preference import (
    REFERENCE_FREE,
    Labelled,
    OddsRatio,
    Preference,
    bradley_terry,
    dpo,
    kto,
    kto_kl,
    log1mexp,
    orpo,
)

__all__ = [
    "REFERENCE_FREE",
    "AdaptiveKL",
    "Clipped",
    "Labelled",
    "OddsRatio",
    "Preference",
    "Surrogate",
    "bradley_terry",
    "cross_entropy",
    "dpo",
    "entropy",
    "gae",
    "group_advantages",
    "grpo",
    "kl_penalised_rewards",
    "kto",
    "kto_kl",
    "lengths_of_segments",
    "log1mexp",
    "masked_mean",
    "means_by_segment",
    "orpo",
    "policy_loss",
    "sums_by_segment",
    "value_loss",
    "whiten",
]
