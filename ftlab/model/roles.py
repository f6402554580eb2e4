"""Several models in one memory: policy, critic, reference and reward share the base weights where they can.

With adapters each role is one more adapter on the policy's base. Without, the critic and the reference are copies that
share with the policy whatever does not train.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

POLICY = "policy"
CRITIC = "critic"
REFERENCE = "reference"
REWARD = "reward"
_TRAINED = "default"  # PEFT's name for the adapter of the policy, which is the one that is saved


def has_adapter(model: Any) -> bool:
    """Whether PEFT wraps the model."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


@contextmanager
def switched(model: Any, adapter: str) -> Iterator[Any]:
    """The model with one adapter at work. ``set_adapter`` would do that too, but it also takes ``requires_grad`` from
    the other adapters, and a critic that trains no more says nothing about it.

    The backward has to run in here as well: with checkpointing it runs parts of the forward again.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    before = [(layer._disable_adapters, layer._active_adapter) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters, layer._active_adapter = False, [adapter]
        yield model
    finally:
        for layer, (disabled, active) in zip(layers, before):
            layer._disable_adapters, layer._active_adapter = disabled, active


def value_head(model: Any) -> nn.Linear:
    """A new head of one output without bias, fp32, drawn as :func:`ftlab.model.score.attach_score` draws it."""
    config = model.config.get_text_config()
    head = nn.Linear(config.hidden_size, 1, bias=False, dtype=torch.float32, device=model.device)
    nn.init.normal_(head.weight, std=config.initializer_range)
    return head


class Roles:
    """The policy as it trains, a critic and a reference made of how it is now, and perhaps a reward model.

    :param policy: on its device, with dropout off; its saved state stays the policy's alone.
    """

    def __init__(self, policy: Any):
        self._policy = policy
        self._others: dict[str, Any] = {}  # roles that are models of their own
        self.heads = nn.ModuleDict({CRITIC: value_head(policy)})
        if has_adapter(policy):
            self._hook = policy.register_state_dict_post_hook(_policy_alone)
            for role in (CRITIC, REFERENCE):
                config = copy.deepcopy(policy.peft_config[_TRAINED])
                # PiSSA would take its part out of the base a second time; the weights are copied below anyhow.
                config.init_lora_weights, config.lora_dropout = True, 0.0
                self._add_adapter(role, config, trainable=role == CRITIC)
                self._copy_policy_to(role)
        else:
            frozen: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
            self._others[CRITIC] = copy.deepcopy(policy, dict(frozen))
            self._others[REFERENCE] = copy.deepcopy(policy, dict(frozen))
            for parameter in self._others[REFERENCE].parameters():
                parameter.requires_grad_(False)
            self._others[REFERENCE].eval()
        self._trainable = self._flags()

    @contextmanager
    def acting(self, role: str) -> Iterator[Any]:
        """The causal model that plays ``role``, for a forward and its backward."""
        if role in self._others:
            yield self._others[role]
        elif has_adapter(self._policy):
            with switched(self._policy, _TRAINED if role == POLICY else role) as model:
                yield model
        else:
            assert role == POLICY, role
            yield self._policy

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """What of the policy or the critic trains, by name."""
        found: dict[str, nn.Parameter] = {}
        for name, parameter in self._others.get(role, self._policy).named_parameters():
            shared = role not in self._others and has_adapter(self._policy)
            mine = not shared or (CRITIC in name.split(".")) == (role == CRITIC)
            if parameter.requires_grad and mine:
                found[name] = parameter
        if role == CRITIC:
            found["value_head"] = self.heads[CRITIC].weight  # type: ignore[assignment]
        return found

    def module(self) -> nn.Module:
        """All that trains, for an optimizer to look through."""
        return nn.ModuleList([self._policy, *self._others.values(), self.heads])

    def train(self, mode: bool) -> None:
        """Policy and critic into training mode, in which alone activation checkpointing works, or out of it."""
        self._policy.train(mode)
        if CRITIC in self._others:
            self._others[CRITIC].train(mode)

    def restore_flags(self) -> None:
        """What trains, as it was at the start: loading an adapter changes it."""
        for name, parameter in self.module().named_parameters():
            parameter.requires_grad_(self._trainable[name])

    def critic_state(self) -> dict[str, Tensor]:
        """The critic's trained weights, for a checkpoint."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters(CRITIC).items()}

    def load_critic_state(self, state: Mapping[str, Tensor]) -> None:
        mine = self.parameters(CRITIC)
        assert mine.keys() == state.keys(), "the critic of another run"
        for name, parameter in mine.items():
            parameter.data.copy_(state[name])

    def add_reward_adapter(self, config: Any, weights: Mapping[str, Tensor], head: Tensor) -> None:
        """A reward model that is an adapter on the policy's base.

        :param weights: as PEFT saves them, without the head. :param head: shape (1, D).
        """
        from peft import set_peft_model_state_dict

        self._add_adapter(REWARD, config, trainable=False, keep_config=True)
        self._hook.remove()  # PEFT finds the adapter's places in the state, as that is without us
        found: Any = set_peft_model_state_dict(self._policy, dict(weights), adapter_name=REWARD)
        self._hook = self._policy.register_state_dict_post_hook(_policy_alone)
        del self._policy.peft_config[REWARD]
        assert not found.unexpected_keys, found.unexpected_keys
        self._set_reward_head(head)

    def add_reward_model(self, model: Any, head: Tensor) -> None:
        """A reward model of its own. :param head: shape (1, D)."""
        self._others[REWARD] = model.to(self._policy.device).eval().requires_grad_(False)
        self._set_reward_head(head)

    def _set_reward_head(self, head: Tensor) -> None:
        made = nn.Linear(head.shape[1], 1, bias=False, dtype=torch.float32, device=self._policy.device)
        made.weight.data.copy_(head)
        self.heads[REWARD] = made.requires_grad_(False)
        self._trainable = self._flags()

    def _flags(self) -> dict[str, bool]:
        return {name: parameter.requires_grad for name, parameter in self.module().named_parameters()}

    def _add_adapter(self, name: str, config: Any, trainable: bool, keep_config: bool = False) -> None:
        before = {name: parameter.requires_grad for name, parameter in self._policy.named_parameters()}
        was_training = self._policy.training
        self._policy.add_adapter(name, config)
        if not keep_config:
            del self._policy.peft_config[name]  # PEFT saves a folder for each adapter that it knows of
        for key, parameter in self._policy.named_parameters():
            parameter.requires_grad_(before.get(key, trainable))
        self._policy.train(was_training)

    def _copy_policy_to(self, adapter: str) -> None:
        found = dict(self._policy.named_parameters())
        copied = 0
        for name, parameter in found.items():
            if _TRAINED in name.split("."):
                target = found[".".join(adapter if part == _TRAINED else part for part in name.split("."))]
                target.data = parameter.data.clone()
                copied += 1
        assert copied, "the policy's adapter has no weights"


def _policy_alone(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leaves the other roles' adapters out of the state that is saved as the policy's."""
    for name in [name for name in state if {CRITIC, REFERENCE, REWARD} & set(name.split("."))]:
        del state[name]
