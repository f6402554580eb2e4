"""Each loss against numbers worked out by hand, and in what must hold for any input: what is
shared, rm, dpo, orpo, kto. The losses of ppo and grpo follow in test_losses_policy.py, and TRL's code in
test_losses_trl.py."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from ftlab.errors import ConfigError
from ftlab.schema import DpoStage
from ftlab.stages.losses import (
    REFERENCE_FREE,
    bradley_terry,
    cross_entropy,
    dpo,
    entropy,
    kto,
    kto_kl,
    lengths_of_segments,
    log1mexp,
    masked_mean,
    means_by_segment,
    orpo,
    sums_by_segment,
    whiten,
)

LOSS_TYPES = get_args(DpoStage.model_fields["loss_type"].annotation)
LN2 = 0.6931471805599453
log_ratios = st.floats(-50, 50, width=32)
quick = settings(max_examples=50, deadline=None)


def close(found: Tensor, expected: Any, **how: Any) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=found.dtype), **({"rtol": 1e-6, "atol": 1e-6} | how)
    )


def doubles(*values: float) -> Tensor:
    return tensor(values, dtype=torch.float64, requires_grad=True)


def pairs_of(loss_type: str, chosen: Tensor, rejected: Tensor, **more: Any) -> Any:
    """A loss of pairs with a reference of 0 and answers of one token each."""
    nothing = None if loss_type in REFERENCE_FREE else torch.zeros_like(chosen)
    lengths = torch.ones(len(chosen), dtype=torch.int64)
    how = {"beta": 0.5, "label_smoothing": 0.1, "simpo_gamma": 0.4, **more}
    lengths_of = {"chosen_lengths_P": lengths, "rejected_lengths_P": lengths}
    return dpo(chosen, rejected, nothing, nothing, loss_type=loss_type, **{**lengths_of, **how})


# ------------------------------------------------------------------------------------------------------------- shared


def test_cross_entropy_is_a_share_of_the_global_batchs_mean():
    logprobs = tensor([-1.0, -2.0, -3.0])
    close(cross_entropy(logprobs, 3), 2.0)
    close(cross_entropy(logprobs[:1], 3) + cross_entropy(logprobs[1:], tensor(3)), 2.0)


def test_segments_in_any_order_and_empty_ones():
    values, segments = tensor([1.0, 10.0, 2.0, 20.0, 4.0]), tensor([0, 3, 0, 3, 1])
    close(sums_by_segment(values, segments, 5), [3.0, 4.0, 0.0, 30.0, 0.0])
    close(means_by_segment(values, segments, 5), [1.5, 4.0, 0.0, 15.0, 0.0])
    assert lengths_of_segments(segments, 5).tolist() == [2, 1, 0, 2, 0]
    assert sums_by_segment(tensor([]), tensor([], dtype=torch.int64), 2).tolist() == [0.0, 0.0]


def test_segments_are_summed_in_fp32_with_gradients():
    # 4096 halves in bf16 would stop at 128: 128 + 0.5 rounds back to 128.
    halves = torch.full((4096,), 0.5, dtype=torch.bfloat16, requires_grad=True)
    total = sums_by_segment(halves, torch.zeros(4096, dtype=torch.int64), 1)
    assert total.dtype == torch.float32 and total.item() == 2048
    (3 * total).sum().backward()
    assert halves.grad is not None and halves.grad.unique().tolist() == [3.0]
    segments = tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda v: means_by_segment(v, segments, 3), (doubles(1, 2, 3),))


def test_masked_mean_does_not_see_what_lies_outside():
    values, mask = tensor([[1.0, math.nan], [4.0, math.inf]]), tensor([[1, 0], [1, 0]])
    close(masked_mean(values, mask), 2.5)
    close(masked_mean(values, torch.zeros_like(mask)), 0.0)


@quick
@given(st.lists(st.tuples(st.integers(-1000, 1000), st.booleans()), min_size=1, max_size=40))
def test_whitened_values_have_mean_0_and_variance_1(rows):
    values, mask = tensor([float(v) for v, _ in rows]), tensor([m for _, m in rows])
    kept = whiten(values, mask)[mask]
    if len({v for v, m in rows if m}) < 2:
        close(kept, torch.zeros(len(kept)))
    else:
        close(kept.mean(), 0.0, atol=1e-5)
        close(kept.var(unbiased=False), 1.0, atol=1e-4)
    assert (whiten(values, mask)[~mask] == 0).all()


def test_whiten_by_hand_and_of_large_equal_values():
    # mean 3, deviations -2, 0, 2, variance 8/3: 2 / sqrt(8/3) = 1.2247449
    close(whiten(tensor([1.0, 3.0, 5.0, math.nan]), tensor([1, 1, 1, 0])), [-1.2247449, 0.0, 1.2247449, 0.0])
    close(whiten(torch.full((7,), 12345.678), torch.ones(7)), torch.zeros(7))


def test_entropy():
    # uniform over 4: ln 4; (3/4, 1/4): 0.75 ln(4/3) + 0.25 ln 4 = 0.5623351; certain: 0; forbidden tokens count for 0
    rows = [[0.0] * 4, [math.log(3), 0.0, -math.inf, -math.inf], [1e4, -1e4, -1e4, -1e4]]
    logits = tensor(rows, requires_grad=True)
    close(entropy(logits), [1.3862944, 0.5623351, 0.0])
    entropy(logits).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda v: entropy(v.view(1, -1)), (doubles(1.0, -0.5, 2.0),))


# ----------------------------------------------------------------------------------------------------------------- rm


def test_bradley_terry():
    # differences 1, 0, -2: ln(1 + e^-1) = 0.3132617, ln 2, ln(1 + e^2) = 2.1269280
    found = bradley_terry(tensor([2.0, 1.0, 0.0]), tensor([1.0, 1.0, 2.0]))
    close(found.losses_P, [0.3132617, LN2, 2.1269280])
    assert found.accuracies_P.tolist() == [1.0, 0.0, 0.0] and found.margins_P.tolist() == [1.0, 0.0, -2.0]
    # with a margin of 1 they are 0, -1, -3: ln 2, ln(1 + e) = 1.3132617, ln(1 + e^3) = 3.0485874
    close(bradley_terry(tensor([2.0, 1.0, 0.0]), tensor([1.0, 1.0, 2.0]), 1.0).losses_P, [LN2, 1.3132617, 3.0485874])
    close(bradley_terry(tensor([2.0, 1.0]), tensor([1.0, 1.0]), tensor([1.0, 0.0])).losses_P, [LN2, LN2])


# ---------------------------------------------------------------------------------------------------------------- dpo


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        # log-ratios: chosen -3 + 5 = 2, rejected -4 + 3 = -1; beta 0.5; e = 0.1; so z = 0.5 * 3 = 1.5, with
        # log s(1.5) = -0.2014133, log s(-1.5) = -1.7014133, s(1.5) = 0.8175745, s(-1.5) = 0.1824255
        ("sigmoid", 0.9 * 0.2014133 + 0.1 * 1.7014133),
        ("robust", (0.9 * 0.2014133 - 0.1 * 1.7014133) / 0.8),
        ("hinge", 0.0),  # 1 - 1.5 < 0
        # lengths 4 and 2: 2/4 + 1/2 - 1/(2 * 0.5) = 0
        ("ipo", 0.0),
        # ln 0.9 = -0.1053605, ln 0.1 = -2.3025851
        ("exo", 0.8175745 * (-0.2014133 + 0.1053605) + 0.1824255 * (-1.7014133 + 2.3025851)),
        # c = 1, r = -0.5: -log s(1) = 0.3132617, -log s(-1) = 1.3132617, -log s(0.5) = 0.4740770
        ("nca", 0.3132617 + 0.5 * 1.3132617 + 0.5 * 0.4740770),
        # c = 1, r = -0.5: s(-1) = 0.2689414, s(-0.5) = 0.3775407
        ("apo_zero", 0.2689414 + 0.3775407),
        # means -0.75 and -2: z = 0.5 * 1.25 - 0.4 = 0.225; -log s(0.225) = 0.5869620, -log s(-0.225) = 0.8119620
        ("simpo", 0.9 * 0.5869620 + 0.1 * 0.8119620),
        # z = 0.5 * (-3 + 4) = 0.5: 0.4740770 and 0.9740770
        ("cpo", 0.9 * 0.4740770 + 0.1 * 0.9740770),
    ],
)
def test_dpo_by_hand(loss_type, expected):
    reference = (None, None) if loss_type in REFERENCE_FREE else (tensor([-5.0]), tensor([-3.0]))
    found = dpo(
        tensor([-3.0]), tensor([-4.0]), *reference, beta=0.5, loss_type=loss_type, label_smoothing=0.1, simpo_gamma=0.4,
        chosen_lengths_P=tensor([4]), rejected_lengths_P=tensor([2]),
    )  # fmt: skip
    close(found.losses_P, [expected])
    rewards = {"simpo": (-0.375, -1.0), "cpo": (-1.5, -2.0)}.get(loss_type, (1.0, -0.5))
    assert (found.chosen_rewards_P.item(), found.rejected_rewards_P.item()) == pytest.approx(rewards)


def test_hinge_and_ipo_where_they_are_not_0():
    # log-ratios 0.5 and -0.5, beta 0.5: 1 - 0.5 * 1 = 0.5; of 2 and 4 tokens: (0.25 + 0.125 - 1)^2 = 0.390625
    nothing, lengths = torch.zeros(1), {"chosen_lengths_P": tensor([2]), "rejected_lengths_P": tensor([4])}
    for loss_type, expected in (("hinge", 0.5), ("ipo", 0.390625)):
        found = dpo(tensor([0.5]), tensor([-0.5]), nothing, nothing, beta=0.5, loss_type=loss_type, **lengths)
        close(found.losses_P, [expected])


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@quick
@given(logprob=st.floats(-500, 0, width=32), other=st.floats(-500, 0, width=32), beta=st.sampled_from([0.1, 1.0]))
def test_where_dpo_starts(loss_type, logprob, other, beta):
    """With a policy that is its reference, whatever the answers; without a reference, answers equally likely."""
    chosen, rejected = tensor([logprob]), tensor([other])
    reference: tuple[Any, Any] = (chosen, rejected)
    if loss_type in REFERENCE_FREE:
        chosen, rejected, reference = torch.zeros(1), torch.zeros(1), (None, None)
    found = dpo(
        chosen, rejected, *reference, beta=beta, loss_type=loss_type,
        label_smoothing=0.1 if loss_type == "exo" else 0.0,
        chosen_lengths_P=tensor([3]), rejected_lengths_P=tensor([5]),
    )  # fmt: skip
    # exo: 0.5 (ln 0.5 - ln 0.9) + 0.5 (ln 0.5 - ln 0.1) = 0.5108256; nca: ln 2 (1 + 1/2 + 1/2)
    starts = {"ipo": 1 / (4 * beta**2), "hinge": 1.0, "exo": 0.5108256, "nca": 2 * LN2, "apo_zero": 1.0}
    close(found.losses_P, [starts.get(loss_type, LN2)])
    assert found.margins_P.item() == 0.0


@quick
@given(a=log_ratios, b=log_ratios)
def test_identities_of_dpo(a, b):
    one, other = tensor([a]), tensor([b])
    both = pairs_of("sigmoid", one, other, label_smoothing=0.3).losses_P
    close(both, pairs_of("sigmoid", other, one, label_smoothing=0.7).losses_P)  # swapped answers, swapped labels
    close(
        pairs_of("robust", one, other, label_smoothing=0.0).losses_P,
        pairs_of("sigmoid", one, other, label_smoothing=0.0).losses_P,
    )
    close(pairs_of("cpo", one, other).losses_P, pairs_of("sigmoid", one, other).losses_P)
    close(pairs_of("simpo", one, other, simpo_gamma=0.0).losses_P, pairs_of("cpo", one, other).losses_P)
    assert pairs_of("exo", one, other).losses_P.item() >= -1e-6  # a KL divergence


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_dpo_gradients(loss_type):
    chosen, rejected = doubles(-1.0, 0.3, 2.0), doubles(0.5, -0.7, 1.9)
    assert torch.autograd.gradcheck(lambda c, r: pairs_of(loss_type, c, r).losses_P, (chosen, rejected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_dpo_of_extreme_answers(loss_type, dtype):
    chosen = tensor([1e4, -1e4, 1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    rejected = tensor([-1e4, 1e4, 1e4, -1e4, 1e4], dtype=dtype, requires_grad=True)
    found = pairs_of(loss_type, chosen, rejected)
    assert found.losses_P.dtype == torch.float32 and found.losses_P.isfinite().all()
    gradients = torch.autograd.grad(found.losses_P.sum(), (chosen, rejected))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not found.margins_P.requires_grad


def test_exo_needs_label_smoothing():
    with pytest.raises(ConfigError, match="exo needs more than 0"):
        pairs_of("exo", tensor([0.0]), tensor([0.0]), label_smoothing=0.0)


# --------------------------------------------------------------------------------------------------------------- orpo


def test_orpo():
    # chosen p = 0.5 (odds 1), rejected p = 0.2 (odds 1/4): log odds ratio ln 4, -log s(ln 4) = ln(1.25) = 0.2231436
    found = orpo(tensor([math.log(0.5)]), tensor([math.log(0.2)]), beta=0.1)
    close(found.log_odds_P, [1.3862944])
    close(found.losses_P, [LN2 + 0.1 * 0.2231436])
    assert found.accuracies_P.tolist() == [1.0]
    close(orpo(tensor([math.log(0.5)]), tensor([math.log(0.2)]), 0.1, tensor([3.0])).losses_P, [3.0 + 0.02231436])


@quick
@given(a=st.floats(-40, 0, width=32), b=st.floats(-40, 0, width=32))
def test_orpo_is_positive_and_its_odds_symmetric(a, b):
    there, back = orpo(tensor([a]), tensor([b]), 0.1), orpo(tensor([b]), tensor([a]), 0.1)
    assert there.losses_P.item() >= 0
    close(there.log_odds_P, -back.log_odds_P)


def test_orpo_at_the_ends_of_probability():
    chosen = tensor([0.0, -1e-12, -1e4, 0.0, -1e4, -LN2], requires_grad=True)
    rejected = tensor([0.0, -1e4, 0.0, -1e-3, -1e4, -LN2], requires_grad=True)
    losses = orpo(chosen, rejected, 0.1).losses_P
    gradients = torch.autograd.grad(losses.sum(), (chosen, rejected))
    assert losses.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
    # log(1 - exp(-1e-3)) = -6.9082553 and log(1 - exp(-10)) = -4.5400961e-05
    close(log1mexp(tensor([-1e-3, -10.0])), [-6.9082553, -4.5400961e-05], atol=1e-9)
    chosen, rejected = doubles(-0.1, -0.7, -3.0), doubles(-2.0, -0.6, -0.01)
    assert torch.autograd.gradcheck(lambda c, r: orpo(c, r, 0.5).losses_P, (chosen, rejected))


# ---------------------------------------------------------------------------------------------------------------- kto


def test_kto():
    # kl = mean(3, -1, 1) = 1; log-ratios 3 (good) and 0 (bad), beta 0.5; s(-1) = 0.2689414, s(-0.5) = 0.3775407:
    # good: 1 - s(0.5 * (3 - 1)) = s(-1); bad: 1 - s(0.5 * (1 - 0)) = s(-0.5)
    kl = kto_kl(tensor([-1.0, -2.0, 0.0], requires_grad=True), tensor([-4.0, -1.0, -1.0]))
    assert kl.item() == 1.0 and not kl.requires_grad
    found = kto(tensor([-1.0, -2.0]), tensor([-4.0, -2.0]), tensor([True, False]), kl, 0.5, 2.0, 3.0)
    close(found.losses_S, [2 * 0.2689414, 3 * 0.3775407])
    assert found.rewards_S.tolist() == [1.5, 0.0]


def test_the_kl_estimate_is_cut_off_at_0_as_a_whole():
    assert kto_kl(tensor([-3.0, 1.0]), tensor([0.0, 0.0])).item() == 0.0
    assert kto_kl(tensor([]), tensor([])).item() == 0.0


@quick
@given(ratio=log_ratios, kl=st.floats(0, 20, width=32), weight=st.sampled_from([0.5, 1.0, 4.0]))
def test_identities_of_kto(ratio, kl, weight):
    policy, reference = tensor([ratio, ratio]), torch.zeros(2)
    found = kto(policy, reference, tensor([1, 0]), kl, 0.1, weight, weight).losses_S
    close(found.sum(), weight)  # what a good answer costs, a bad one is spared
    start = kto(reference, reference, tensor([1, 0]), 0.0, 0.1, weight, 1.0).losses_S
    close(start, [weight / 2, 0.5])


def test_kto_of_extreme_answers_and_gradients():
    policy = tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    losses = kto(policy, torch.zeros(4), tensor([1, 1, 0, 0]), 0.0, 1.0).losses_S
    assert losses.tolist() == [0.0, 1.0, 1.0, 0.0]
    losses.sum().backward()
    assert policy.grad is not None and policy.grad.isfinite().all()
    labels = tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda p: kto(p, torch.zeros(3), labels, 0.3, 0.5).losses_S, (doubles(1, -2, 0),))
