"""Where a phase's files are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftlab.rundir.names import FINAL, MERGED_BASE, METRICS


@dataclass(frozen=True)
class PhaseFiles:
    """Paths of one phase of a run.

    :param folder: ``phases/NN-name`` of the run directory. :param phases: the folder of all the run's phases.
    :param samples: the folder of what the run's phases answered. :param metrics: what the run has logged.
    """

    folder: Path
    phases: Path
    samples: Path
    metrics: Path

    @classmethod
    def in_folder(cls, folder: Path) -> PhaseFiles:
        """The files of a phase that stands alone, without a run directory around it."""
        return cls(folder, folder.parent, folder, folder / METRICS)

    @property
    def final(self) -> Path:
        """The adapter or model that the phase ended with."""
        return self.folder / FINAL

    @property
    def merged_base(self) -> Path:
        """Under ``start: merge`` the base that the adapter before it became a part of."""
        return self.folder / MERGED_BASE

    @property
    def rollouts(self) -> Path:
        """Some answers of every rollout of ppo."""
        return self.samples / f"{self.folder.name}-rollouts.jsonl"

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"
