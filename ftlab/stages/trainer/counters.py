"""What was summed up since the last logged line, kept in every checkpoint: a run that goes on logs what the whole one
would have, also where checkpoints fall between two lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ftlab.stages.trainer.divergence import WatchedTrainer


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

    # Beside the random state: after transformers has reset its sums, before the checkpoint is sealed, on every rank.

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        torch.save(self.counters(), self._counters_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            file = self._counters_file(checkpoint)
            self.restore_counters(torch.load(file, map_location=self.args.device.type, weights_only=True))

    def _counters_file(self, folder: str) -> Path:
        return Path(folder) / self.world.file_name("counters.pt")
