"""Losses against the code of TRL's trainers, called without a model: a stand-in gives them log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from ftlab.stages.losses import REFERENCE_FREE, dpo, group_advantages, grpo, kto, kto_kl, masked_mean, orpo
from tests.stages.test_losses import LOSS_TYPES, close

TRL_NAMES = {"exo": "exo_pair", "nca": "nca_pair"}


class OneDevice:
    device = torch.device("cpu")
    num_processes = 1

    def gather(self, values: Tensor) -> Tensor:
        return values

    gather_for_metrics = gather

    def reduce(self, values: Tensor, reduction: str) -> Tensor:
        return values


def rows_of(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of answers as a padded batch, 0 on padding, and which tokens are the answers'; prompts of 2."""
    positions = torch.arange(int(lengths.max()) + 2)
    mask = (positions >= 2) & (positions < lengths[:, None] + 2)
    return torch.empty(mask[:, 1:].shape).uniform_(-4, 0) * mask[:, 1:], mask.long()


def trl_inputs(logprobs: Tensor, mask: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """A model that gives these log-probabilities to TRL's preference trainers, and their batch."""
    nothing = torch.zeros_like(logprobs)
    more = {"entropy": nothing, "mean_logits": nothing, "is_top1": nothing.bool()}
    inputs = {"input_ids": mask, "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return lambda **_: SimpleNamespace(log_probs=logprobs, **more), inputs


def trl_trainer(**settings: Any) -> Any:
    more = {"aux_loss_enabled": False, "precompute_ref_logps": True, "_total_train_tokens": 0, "_tp_size": 1}
    metrics = {"train": defaultdict(list)}
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=OneDevice(), _metrics=metrics, **more, **settings
    )


@pytest.mark.parametrize("loss_type", sorted(set(LOSS_TYPES) - REFERENCE_FREE))
def test_dpo_is_trls(loss_type):
    from trl import DPOTrainer

    torch.manual_seed(0)
    lengths = tensor([3, 7, 1, 5, 4, 4, 9, 2])  # four chosen, then four rejected
    logprobs, mask = rows_of(lengths)
    reference = logprobs.sum(1) + torch.randn(8)
    smoothing = 0.0 if loss_type == "sigmoid" else 0.2  # which TRL 1.16 ignores there
    trainer = trl_trainer(
        loss_types=[TRL_NAMES.get(loss_type, loss_type)], loss_weights=[1.0], ld_alpha=None, use_weighting=False,
        f_divergence_type="reverse_kl", beta=0.3, label_smoothing=smoothing,
    )  # fmt: skip
    model, inputs = trl_inputs(logprobs, mask)
    inputs |= {"ref_chosen_logps": reference[:4], "ref_rejected_logps": reference[4:]}
    expected = DPOTrainer._compute_loss(trainer, model, inputs, False)
    found = dpo(
        *logprobs.sum(1).chunk(2), *reference.chunk(2), beta=0.3, loss_type=loss_type, label_smoothing=smoothing,
        chosen_lengths_P=lengths[:4], rejected_lengths_P=lengths[4:],
    )  # fmt: skip
    close(found.losses_P.mean(), expected)
    logged = trainer._metrics["train"]
    assert found.chosen_rewards_P.mean().item() == pytest.approx(logged["rewards/chosen"][0], abs=1e-6)
    assert found.margins_P.mean().item() == pytest.approx(logged["rewards/margins"][0], abs=1e-6)
    assert found.accuracies_P.mean().item() == pytest.approx(logged["rewards/accuracies"][0])


@pytest.mark.parametrize("loss_type", sorted(REFERENCE_FREE))
def test_simpo_and_cpo_are_trls(loss_type):
    from trl.experimental.cpo import CPOTrainer

    torch.manual_seed(1)
    chosen, rejected, lengths = -20 * torch.rand(6), -20 * torch.rand(6), torch.randint(1, 9, (2, 6))
    name = "simpo" if loss_type == "simpo" else "sigmoid"
    trainer = SimpleNamespace(
        alpha=0.0, accelerator=OneDevice(), loss_type=name, simpo_gamma=0.5, beta=0.7, label_smoothing=0.1
    )
    divisors = lengths if loss_type == "simpo" else torch.ones_like(lengths)
    losses, chosen_rewards, rejected_rewards = CPOTrainer.cpo_loss(
        trainer, chosen / divisors[0], rejected / divisors[1]
    )
    found = dpo(
        chosen, rejected, None, None, beta=0.7, loss_type=loss_type, label_smoothing=0.1, simpo_gamma=0.5,
        chosen_lengths_P=lengths[0], rejected_lengths_P=lengths[1],
    )  # fmt: skip
    close(found.losses_P, losses)
    close(found.margins_P, chosen_rewards - rejected_rewards)


def test_orpo_is_trls():
    from trl.experimental.orpo import ORPOTrainer

    torch.manual_seed(2)
    chosen, rejected = -3 * torch.rand(50), -3 * torch.rand(50)
    theirs, *_ = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.1, accelerator=OneDevice()), chosen, rejected)
    found = orpo(chosen, rejected, 0.1)
    close(found.losses_P, -chosen - theirs)  # TRL's is what is taken off the likelihood term


def test_kto_is_trls():
    from trl import KTOTrainer

    torch.manual_seed(3)
    labels = tensor([1, 0, 0, 1, 1, 0, 1])
    logprobs, mask = rows_of(tensor([3, 1, 7, 2, 5, 4, 6]))
    reference, policy_kl = logprobs.sum(1) + torch.randn(7), -10 * torch.rand(7)
    reference_kl = policy_kl - torch.rand(7)
    trainer = trl_trainer(
        calculate_KL=True, loss_type="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.5,
        _compute_kl_logps=lambda *_: policy_kl,
    )  # fmt: skip
    model, inputs = trl_inputs(logprobs, mask)
    inputs |= {"label": labels, "ref_logps": reference, "ref_KL_logps": reference_kl}
    expected = KTOTrainer._compute_loss(trainer, model, inputs, False)
    kl = kto_kl(policy_kl, reference_kl)
    assert kl.item() == pytest.approx(trainer._metrics["train"]["kl"][0]) and kl.item() > 0.1
    close(kto(logprobs.sum(1), reference, labels, kl, 0.3, 1.5, 0.5).losses_S.mean(), expected)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_grpo_is_trls_default(beta):
    from trl import GRPOConfig, GRPOTrainer

    torch.manual_seed(4)
    logprobs, mask = rows_of(tensor([3, 1, 7, 5]))
    mask = mask[:, 1:]
    old, reference = (logprobs + 0.4 * torch.randn(logprobs.shape) for _ in range(2))
    advantages = torch.randn(4)
    default = GRPOConfig.__dataclass_fields__["loss_type"].default
    assert default == "dapo"
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=OneDevice(), _metrics={"train": defaultdict(list)},
        loss_type=default, beta=beta, epsilon_low=0.2, epsilon_high=0.2, importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, aux_loss_enabled=False,
        _entropy_bonus_enabled=False, current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": mask[:, :1], "prompt_mask": mask[:, :1], "completion_ids": mask, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    expected = GRPOTrainer._compute_loss(trainer, None, inputs)
    found = grpo(logprobs, old, reference, advantages, mask, 0.2, beta)
    close(found.losses_BT.sum() / mask.sum(), expected)
    logged = trainer._metrics["train"]
    assert masked_mean(found.clipped_BT, mask).item() == pytest.approx(logged["clip_ratio/region_mean"][0])
    assert found.clipped_BT.sum() > 0
    if beta:
        assert masked_mean(found.kl_BT, mask).item() == pytest.approx(logged["kl"][0], rel=1e-5)


def test_group_advantages_have_trls_deviation():
    from trl.trainer.utils import nanstd

    rewards = torch.rand(6, 4)
    rewards[1, 2] = rewards[3, 0] = torch.nan
    expected = (rewards - rewards.nanmean(1, keepdim=True)) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)
    close(group_advantages(rewards.flatten(), 4), expected.nan_to_num(nan=0.0).flatten())
