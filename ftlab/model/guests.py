"""Adapters on the policy's base beside the policy's own: what they compute is theirs, what is saved is the policy's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from ftlab.model.adapter_weights import put_adapter_weights

TRAINED = "default"  # PEFT's name for the adapter of the policy, which is the one that is saved


def has_adapter(model: Any) -> bool:
    """Whether PEFT wraps the model."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


@contextmanager
def active_adapter(model: Any, adapter: str) -> Iterator[Any]:
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


class GuestAdapters:
    """The adapters that a policy's base carries beside the policy's own. PEFT knows of none of them when it saves.

    :param policy: a PEFT model. :ivar names: of the adapters.
    """

    def __init__(self, policy: Any):
        assert has_adapter(policy)
        self._policy = policy
        self.names: set[str] = set()
        policy.register_state_dict_post_hook(partial(_leave_out, self.names))

    def add(self, name: str, config: Any, trainable: bool) -> None:
        """A new adapter; what the others train stays as it is."""
        self._add(name, config, trainable)
        del self._policy.peft_config[name]

    def add_saved(self, name: str, config: Any, weights: Mapping[str, Tensor], spec: str) -> None:
        """An adapter that does not train.

        :param weights: as PEFT saves them. :param spec: where they are, as the user typed it.
        :raises NotReadyError: weights of it are not there.
        """
        self._add(name, config, trainable=False)
        self.names.remove(name)  # PEFT finds the adapter's places in the state, and those of no other guest
        put_adapter_weights(self._policy, weights, spec, name)
        self.names.add(name)
        del self._policy.peft_config[name]

    def copy_policy_to(self, name: str) -> None:
        """Give an adapter of the policy's shape the policy's weights."""
        found = dict(self._policy.named_parameters())
        copied = 0
        for key, parameter in found.items():
            if TRAINED in key.split("."):
                target = found[".".join(name if part == TRAINED else part for part in key.split("."))]
                target.data = parameter.data.clone()
                copied += 1
        assert copied, "the policy's adapter has no weights"

    def _add(self, name: str, config: Any, trainable: bool) -> None:
        assert name not in self.names
        before = {key: parameter.requires_grad for key, parameter in self._policy.named_parameters()}
        was_training = self._policy.training
        self._policy.add_adapter(name, config)
        for key, parameter in self._policy.named_parameters():
            parameter.requires_grad_(before.get(key, trainable))
        self._policy.train(was_training)
        self.names.add(name)


def _leave_out(names: set[str], module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if names & set(key.split("."))]:
        del state[key]
