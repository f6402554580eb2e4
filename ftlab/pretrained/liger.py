"""For which models Liger (https://github.com/linkedin/Liger-Kernel) has layers, and where they compute. Imports no
torch."""

from __future__ import annotations

import os
from importlib.util import find_spec

# model_type, of Liger 0.8: where tests/model/test_liger.py finds its layers to be transformers' own. Experts
# it computes as a whole block, past the adapters on them.
LIGER_FAMILIES = (
    "gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "olmo3", "phi3", "qwen2", "qwen3",
    "smollm3",
)  # fmt: skip


def missing_liger() -> list[str]:
    """What of Liger is not installed: its layers are written in Triton, which comes with torch's builds for GPUs."""
    return [
        name for name, module in {"liger-kernel": "liger_kernel", "triton": "triton"}.items() if not find_spec(module)
    ]


def is_interpreted() -> bool:
    """Whether Triton computes on a CPU, as its own tests do: the same numbers, thousands of times as slow."""
    return os.environ.get("TRITON_INTERPRET") == "1"
