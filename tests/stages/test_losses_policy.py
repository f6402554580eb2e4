"""The losses of ppo and grpo against numbers worked out by hand, and in what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from ftlab.errors import DivergedError
from ftlab.stages.losses import (
    AdaptiveKL,
    gae,
    group_advantages,
    grpo,
    kl_penalised_rewards,
    masked_mean,
    policy_loss,
    value_loss,
)
from tests.stages.test_losses import close, doubles

NAN = math.nan
quick = settings(max_examples=50, deadline=None)
cells = st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.booleans())
EXTREMES = [[1e4, -1e4, 0.0, 1e4], [-1e4, 1e4, 25.0, -1e4]]


# ------------------------------------------------------------------------------------------------------ rewards and gae


def test_the_score_is_at_each_answers_last_token_and_the_kl_at_every_one():
    # log-ratios 0.5, 1.0 | 0.25; coefficient 0.1; the second answer ends earlier, the third has no tokens
    logprobs = tensor([[-1.0, -1.0, -9.0], [-1.0, NAN, NAN], [-1.0, -1.0, -1.0]])
    reference = tensor([[-1.5, -2.0, NAN], [-1.25, -1.0, 0.0], [-3.0, -3.0, -3.0]])
    mask = tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    rewards, kl = kl_penalised_rewards(tensor([2.0, -1.0, 7.0]), logprobs, reference, mask, 0.1)
    close(rewards, [[-0.05, 1.9, 0.0], [-1.025, 0.0, 0.0], [0.0, 0.0, 0.0]])
    close(kl, [[0.5, 1.0, 0.0], [0.25, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_gae_by_hand():
    # gamma 0.9, lam 0.5. First row: d2 = 1 - 2 = -1; d1 = 0 + 0.9 * 2 - 1 = 0.8; A1 = 0.8 + 0.45 * -1 = 0.35;
    # d0 = 1 + 0.9 * 1 - 0.5 = 1.4; A0 = 1.4 + 0.45 * 0.35 = 1.5575. Second row ends after two: d1 = 3 - 1 = 2;
    # d0 = 0 + 0.9 * 1 - 2 = -1.1; A0 = -1.1 + 0.45 * 2 = -0.2. What lies behind the end is not seen.
    rewards = tensor([[1.0, 0.0, 1.0], [0.0, 3.0, NAN]])
    values = tensor([[0.5, 1.0, 2.0], [2.0, 1.0, 50.0]])
    advantages, returns = gae(rewards, values, tensor([[1, 1, 1], [1, 1, 0]]), 0.9, 0.5)
    close(advantages, [[1.5575, 0.35, -1.0], [-0.2, 2.0, 0.0]])
    close(returns, [[2.0575, 1.35, 1.0], [1.8, 3.0, 0.0]])


@quick
@given(
    rows=st.lists(st.lists(cells, min_size=6, max_size=6), min_size=1, max_size=4),
    gamma=st.sampled_from([1.0, 0.9, 0.5]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_gae_is_the_sum_over_what_comes(rows, gamma, lam):
    """Masks of any shape: padding on the left, on the right and in between."""
    rewards, values, mask = (tensor([[float(cell[i]) for cell in row] for row in rows]) for i in range(3))
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, (found, back) in enumerate(zip(advantages, returns)):
        kept = [i for i, cell in enumerate(rows[row]) if cell[2]]
        r, v = ([float(rows[row][i][k]) for i in kept] for k in (0, 1))
        deltas = [r[t] + gamma * (v[t + 1] if t + 1 < len(v) else 0.0) - v[t] for t in range(len(v))]
        sums = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(v))) for t in range(len(v))]
        close(found[kept], sums, atol=1e-4)
        close(back[kept], [a + b for a, b in zip(sums, v)], atol=1e-4)
    assert (advantages[mask == 0] == 0).all() and (returns[mask == 0] == 0).all()


def test_with_lambda_1_the_return_is_all_that_is_still_earned():
    rewards, mask = tensor([[1.0, 2.0, 4.0]]), torch.ones(1, 3)
    close(gae(rewards, torch.randn(1, 3), mask, 1.0, 1.0)[1], [[7.0, 6.0, 4.0]])


# -------------------------------------------------------------------------------------------------- clipped objectives


def test_policy_loss_by_hand():
    # ratios 1.5, 0.5, 1.1, 1.5, 0.5 with range 0.2: min(1.5, 1.2) = 1.2 clipped; min(0.5, 0.8) = 0.5;
    # 2 * 1.1 = 2.2; A = -1: min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8 clipped; the last is outside
    ratios, advantages = tensor([1.5, 0.5, 1.1, 1.5, 0.5, NAN]), tensor([1.0, 1.0, 2.0, -1.0, -1.0, NAN])
    mask = tensor([1, 1, 1, 1, 1, 0])
    found = policy_loss(ratios.log(), torch.zeros(6), advantages, mask, 0.2)
    close(found.losses_BT, [-1.2, -0.5, -2.2, 1.5, 0.8, 0.0])
    assert found.clipped_BT.tolist() == [1, 0, 0, 0, 1, 0]
    # q - 1 - ln q: 0.5 - 0.4054651 = 0.0945349; -0.5 + 0.6931472 = 0.1931472; 0.1 - 0.0953102 = 0.0046898
    close(found.kl_BT, [0.0945349, 0.1931472, 0.0046898, 0.0945349, 0.1931472, 0.0])
    assert masked_mean(found.clipped_BT, mask).item() == pytest.approx(0.4)


def test_nothing_is_learned_where_it_is_clipped():
    logprobs = tensor([1.5, 1.1, 0.5], requires_grad=True)
    found = policy_loss(logprobs.log(), torch.zeros(3), tensor([1.0, 1.0, -1.0]), torch.ones(3), 0.2)
    found.losses_BT.sum().backward()
    assert logprobs.grad is not None
    close(logprobs.grad, [0.0, -1.0, 0.0])


@quick
@given(st.lists(st.tuples(st.floats(-20, 0, width=32), st.floats(-5, 5, width=32)), min_size=1, max_size=10))
def test_before_the_first_update_the_loss_is_minus_the_advantage(rows):
    logprobs, advantages = (tensor([row[i] for row in rows]) for i in range(2))
    found = policy_loss(logprobs, logprobs, advantages, torch.ones(len(rows)), 0.2)
    close(found.losses_BT, -advantages)
    assert not found.clipped_BT.any() and not found.kl_BT.any()


def test_values_within_the_range_are_not_clipped():
    """Whatever their rounding: a difference that is added again is not always the value."""
    draw = torch.Generator().manual_seed(0)
    old, values = 0.01 * torch.randn(1000, generator=draw), 0.05 * torch.randn(1000, generator=draw).clamp(-3, 3)
    found = value_loss(values, old, torch.randn(1000, generator=draw), torch.ones(1000), 0.2)
    assert found.clipped_BT.sum() == 0


def test_value_loss_by_hand():
    # old 1, range 0.2. Value 2, return 3: max(1, (1.2 - 3)^2 = 3.24) clipped. Value 2, return 1: max(1, 0.2^2) = 1.
    # Value 1.1, return 0: 1.21. Value 0, return -1: max(1, (0.8 + 1)^2 = 3.24) clipped.
    values, returns = tensor([2.0, 2.0, 1.1, 0.0, NAN]), tensor([3.0, 1.0, 0.0, -1.0, 1.0])
    mask = tensor([1, 1, 1, 1, 0])
    found = value_loss(values, torch.ones(5), returns, mask, 0.2)
    close(found.losses_BT, [1.62, 0.5, 0.605, 1.62, 0.0])
    assert found.clipped_BT.tolist() == [1, 0, 0, 1, 0]


# --------------------------------------------------------------------------------------------------------------- grpo


def test_group_advantages_by_hand():
    # 0, 0, 1, 1: mean 0.5, deviation sqrt(4 * 0.25 / 3) = 0.5773503, 0.5 / 0.5774503 = 0.8658754; equal rewards: 0
    found = group_advantages(tensor([0.0, 0.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.3]), 4)
    close(found, [-0.8658754, -0.8658754, 0.8658754, 0.8658754, 0.0, 0.0, 0.0, 0.0])
    # an answer without a reward: 0 and 1 are left, mean 0.5, deviation sqrt(0.5) = 0.7071068; 0.5 / 0.7072068
    close(group_advantages(tensor([0.0, NAN, 1.0, NAN, NAN, 5.0]), 3), [-0.7070068, 0.0, 0.7070068, 0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="7 rewards are not whole groups of 4"):
        group_advantages(torch.zeros(7), 4)


def test_grpo_by_hand():
    # advantage 1: ratios 1.5 (clipped to 1.2) and 1; reference log-ratios ln 2 and 0: KL 2 - 1 - 0.6931472 = 0.3068528
    logprobs, mask = tensor([[1.5, 1.0, NAN]]).log(), tensor([[1, 1, 0]])
    reference = logprobs + tensor([[math.log(2), 0.0, 0.0]])
    found = grpo(logprobs, torch.zeros(1, 3), reference, tensor([1.0]), mask, 0.2, 0.1)
    close(found.losses_BT, [[-1.2 + 0.03068528, -1.0, 0.0]])
    close(found.kl_BT, [[0.3068528, 0.0, 0.0]])
    without = grpo(logprobs, torch.zeros(1, 3), None, tensor([1.0]), mask, 0.2, 0.0)
    close(without.losses_BT, [[-1.2, -1.0, 0.0]])
    assert without.kl_BT.tolist() == [[0.0, 0.0, 0.0]]


# ----------------------------------------------------------------------------------------------------------- numerics


def losses_of(logprobs: Tensor, other: Tensor) -> dict[str, Tensor]:
    mask, advantages = torch.ones_like(logprobs), tensor([1.0, -1.0], dtype=other.dtype)
    all_advantages = advantages[:, None].expand_as(logprobs)
    return {
        "policy": policy_loss(logprobs, other, all_advantages, mask, 0.2).losses_BT,
        "value": value_loss(logprobs, other, all_advantages, mask, 0.2).losses_BT,
        "grpo": grpo(logprobs, other, other, advantages, mask, 0.2, 0.1).losses_BT,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["policy", "value", "grpo"])
def test_extreme_inputs(name, dtype):
    logprobs = tensor(EXTREMES, dtype=dtype, requires_grad=True)
    losses = losses_of(logprobs, torch.zeros(2, 4, dtype=dtype))[name]
    losses.sum().backward()
    assert losses.dtype == torch.float32 and losses.isfinite().all()
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


def test_a_ratio_past_all_bounds_is_still_pushed_back():
    logprobs = tensor([[30.0, 0.0], [30.0, 0.0]], requires_grad=True)
    losses_of(logprobs, torch.zeros(2, 2))["policy"].sum().backward()
    assert logprobs.grad is not None and logprobs.grad[1, 0] > 0 and logprobs.grad[0, 0] == 0


@pytest.mark.parametrize("name", ["policy", "value", "grpo"])
def test_gradients(name):
    other = tensor([[-1.0, -2.0], [-0.5, -1.5]], dtype=torch.float64)
    logprobs = doubles(-1.1, -1.5, -0.45, -3.0)  # away from the clips' edges
    assert torch.autograd.gradcheck(lambda v: losses_of(v.view(2, 2), other)[name], (logprobs,))


# ------------------------------------------------------------------------------------------------------- KL coefficient


def test_the_kl_coefficient_follows_the_kl():
    control = AdaptiveKL(0.1, target=6.0)
    # error (6.6 - 6) / 6 = 0.1: 0.1 * (1 + 0.1 * 0.1) = 0.101; far above: 0.101 * 1.02; far below: times 0.98
    assert control.update(6.6) == pytest.approx(0.101)
    assert control.update(math.inf) == pytest.approx(0.101 * 1.02)
    assert control.update(0.0) == pytest.approx(0.101 * 1.02 * 0.98)
    again = AdaptiveKL(0.1, target=6.0)
    again.load_state_dict(control.state_dict())
    assert again.update(7.0) == control.update(7.0)
    assert AdaptiveKL(0.1).update(100.0) == 0.1
    with pytest.raises(DivergedError):
        control.update(NAN)
