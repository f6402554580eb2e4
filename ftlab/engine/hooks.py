"""What a program that starts a run may be told of, while the run is at work."""

from __future__ import annotations

from typing import Any


class PhaseHooks:
    """Every method does nothing; a subclass overrides what it wants to be told. ``phase`` is the phase at work, an
    :class:`ftlab.engine.phase.PhaseRun`, with its config, model, tokenizer and folders."""

    def model_loaded(self, phase: Any) -> None:
        """The model is in memory, with its adapter, and has not been trained."""

    def trainer_built(self, phase: Any, trainer: Any) -> None:
        """The trainer is complete but for what the hook adds, such as a callback."""

    def final_saved(self, phase: Any) -> None:
        """The final weights are on disk."""
