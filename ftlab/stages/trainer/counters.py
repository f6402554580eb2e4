"""What was summed up since the last logged line, kept in every checkpoint: a run that goes on logs what the whole one
would have, also where checkpoints fall between two lines, or other processes go on than have begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftlab.errors import RunDirError
from ftlab.model.attention.interface import DROPOUTS
from ftlab.stages.trainer.divergence import WatchedTrainer

_FILE = "counters.pt"


class CountingTrainer(WatchedTrainer):
    """transformers begins its own sums anew at each start."""

    def counters(self) -> dict[str, Any]:
        """Return the counters by name, as tensors and plain values."""
        return {
            "loss": self._tr_loss,
            "all_losses": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "usual_losses": None if self._spikes is None else self._spikes.state_dict(),
        }

    def restore_counters(self, state: dict[str, Any]) -> None:
        self._tr_loss, self._total_loss_scalar = state["loss"], state["all_losses"]
        self._globalstep_last_logged = state["last_logged"]
        if self._spikes is not None and state["usual_losses"] is not None:
            self._spikes.load_state_dict(state["usual_losses"])

    def own_state(self) -> dict[str, Any]:
        """What a checkpoint has of this process beside what transformers puts there: tensors and plain values, by the
        name of the file. A stage adds its own."""
        return {self.world.file_name(_FILE): self.counters()}

    def _save_rng_state(self, output_dir: str) -> None:
        """After transformers has reset its sums, before the checkpoint is sealed, on every rank."""
        super()._save_rng_state(output_dir)
        for name, values in self.own_state().items():
            torch.save(values, Path(output_dir) / name)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """:raises RunDirError: other processes go on than have begun, and the model draws from their random states."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        file, device = Path(checkpoint) / self.world.file_name(_FILE), self.args.device.type
        if file.is_file():
            self.restore_counters(torch.load(file, map_location=device, weights_only=True))
            return
        files = sorted(file.parent.glob("counters*.pt"))
        if (drawn := what_is_drawn(self.model)) is not None:
            raise RunDirError(
                f"{checkpoint} was written by {len(files)} process{'es' * (len(files) > 1)}, and {self.world.size} go "
                f"on. The model draws at random in a step ({drawn}), each process for itself: go on with as many."
            )
        states = [torch.load(path, map_location=device, weights_only=True) for path in files]
        self.restore_counters(self.counters_of_others(states))

    def counters_of_others(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Counters of this process with which all come to what processes of another number had counted.

        :param states: of each of those.
        """
        loss = torch.stack([state["loss"] for state in states]).mean(0)  # each has counted a mean over all
        return {**states[0], "loss": loss}


def what_is_drawn(model: Any) -> str | None:
    """What of a model in training draws random numbers; None where nothing does."""
    name = next((n for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0), None)
    if name is not None:
        return f"dropout in {name}"
    config = model.config.to_dict()
    return next((f"{key} of its config.json" for key in DROPOUTS if config.get(key)), None)  # functions, not modules
