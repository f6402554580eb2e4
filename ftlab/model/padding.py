"""Families whose layers read what an attention mask hides."""

from __future__ import annotations

from typing import Any


def reads_padding(model: Any) -> bool:
    """Whether padding before a prompt changes what follows it: its convolutions over time take no mask. Prompts of
    different lengths cannot be asked together then."""
    return bool(model.config.get_text_config().model_type == "recurrent_gemma")
