"""What transformers' trainer does not know of weights that are sharded where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ftlab.distributed import fsdp
from ftlab.distributed.world import current_world
from ftlab.model.guests import has_adapter
from ftlab.model.load import precision_name
from ftlab.model.modules import decoder_layers
from ftlab.stages.trainer.wrapping import WrappedTrainer

_OPTIMIZER, _SCHEDULER = "optimizer.pt", "scheduler.pt"  # transformers' names; each process has an optimizer's file


class FullyShardedTrainer(WrappedTrainer):
    """The model is sharded before anything is computed with it, and each process saves its part of the optimizer's
    states. Gradients are reduced with each micro-batch: whole ones of all weights are never there."""

    def wrap(self, steps: int) -> None:
        super().wrap(steps)
        if self.sharding.is_in_place:
            self.shard(self.model)

    def place(self, model: Any) -> None:
        """Put another model beside the one that trains where it can be computed with."""
        if self.sharding.is_in_place:
            self.shard(model)
        else:
            super()._move_model_to_device(model, self.args.device)

    def shard(self, model: Any) -> None:
        """:raises NotReadyError: torch cannot."""
        base = model.get_base_model() if has_adapter(model) else model
        in_16_bits = fsdp.gathers_in_16_bits(self.run, precision_name(self.run))
        fsdp.shard_model(base, decoder_layers(base), self.args.device, in_16_bits)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.sharding.is_in_place:  # no device need have room for all of it
            super()._move_model_to_device(model, device)

    def create_optimizer(self, model: Any = None) -> Any:
        self.sharding.release(self.model)  # the optimizer has the parts
        return super().create_optimizer(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self.sharding.whole(norm) if isinstance(norm, torch.Tensor) else norm

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharding.is_in_place:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # any process may be here first
        torch.save(fsdp.local_states(self.optimizer.state_dict()), self._optimizer_file(output_dir))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharding.is_in_place or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # Of a CPU without its number, which torch does not know as a place.
        device = "cpu" if self.args.device.type == "cpu" else self.args.device
        state = torch.load(self._optimizer_file(checkpoint), map_location=device, weights_only=True)
        self.optimizer.load_state_dict(fsdp.sharded_states(state, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULER, weights_only=True))

    def _optimizer_file(self, folder: str) -> Path:
        return Path(folder) / current_world().file_name(_OPTIMIZER)
