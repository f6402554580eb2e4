"""Several models in one memory: policy, critic and reference share the base weights where they can.

With adapters each role is one more adapter on the policy's base. Without, the critic and the reference are copies that
share with the policy whatever does not train.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ftlab.model.checkpointing import enable_checkpointing
from ftlab.model.guests import TRAINED, GuestAdapters, active_adapter, has_adapter
from ftlab.model.score import value_head

POLICY = "policy"
CRITIC = "critic"
REFERENCE = "reference"


class Roles:
    """The policy as it trains, and a critic and a reference made of how it is now.

    :param policy: on its device, with dropout off; its saved state stays the policy's alone.
    :param guests: of the policy's base; None where it has no adapter. :param checkpointing: of the policy's layers, in
        the words of :func:`ftlab.model.checkpointing.checkpointing_options`, for those of a critic of its own.
    """

    def __init__(self, policy: Any, guests: GuestAdapters | None, checkpointing: Mapping[str, Any]):
        self._policy, self._checkpointing = policy, checkpointing
        self._others: dict[str, Any] = {}  # roles that are models of their own
        self.heads = nn.ModuleDict({CRITIC: value_head(policy)})
        if guests is not None:
            for role in (CRITIC, REFERENCE):
                config = copy.deepcopy(policy.peft_config[TRAINED])
                # PiSSA would take its part out of the base a second time; the weights are copied below anyhow.
                config.init_lora_weights, config.lora_dropout = True, 0.0
                guests.add(role, config, trainable=role == CRITIC)
                guests.copy_policy_to(role)
        else:
            frozen: dict[int, Any] = {id(p): p for p in policy.parameters() if not p.requires_grad}
            self._others[CRITIC] = copy.deepcopy(policy, dict(frozen))
            self._others[REFERENCE] = copy.deepcopy(policy, dict(frozen))
            for parameter in self._others[REFERENCE].parameters():
                parameter.requires_grad_(False)
            self._others[REFERENCE].eval()
        self._module = _Roles([policy, *self._others.values(), self.heads])
        self._trainable = {name: parameter.requires_grad for name, parameter in self._module.named_parameters()}

    @contextmanager
    def acting(self, role: str) -> Iterator[Any]:
        """The causal model that plays ``role``, for a forward and its backward."""
        if role in self._others:
            yield self._others[role]
        elif has_adapter(self._policy):
            with active_adapter(self._policy, TRAINED if role == POLICY else role) as model:
                yield model
        else:
            assert role == POLICY, role
            yield self._policy

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """Return the trained parameters of the policy or the critic, by name."""
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
        """A module that holds everything that trains, for an optimizer to look through and a wrapper to be put around.
        Its forward calls what it is given."""
        return self._module

    def train(self, mode: bool) -> None:
        """Policy and critic into training mode, in which alone activation checkpointing works, or out of it."""
        self._policy.train(mode)
        critic = self._others.get(CRITIC)
        if critic is None:
            return
        # The Trainer switches it on after the copy was made, and in the policy alone.
        if self._policy.is_activation_checkpointing and not critic.is_activation_checkpointing:
            enable_checkpointing(critic, self._checkpointing)
        critic.train(mode)

    def restore_flags(self) -> None:
        """Restore ``requires_grad`` as it was at the start: loading an adapter changes it."""
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


class _Roles(nn.ModuleList):
    """Which role a forward is of, and what is made of it, is known where it is called."""

    def forward(self, compute: Callable[[], Any]) -> Any:
        return compute()
