"""What the libraries below are told before they are imported."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """No telemetry, no banners. Called before the libraries are imported; a user's own environment wins."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "BITSANDBYTES_NOWELCOME": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # a store that is gone is told in words, and not with its frames in C++
    }.items():
        os.environ.setdefault(name, value)
