"""What the libraries below are told before they are imported."""

from __future__ import annotations

import logging
import os
import sys

_UNCOMPILED = "TORCHDYNAMO_DISABLE"


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
    # transformers imports it wherever it is installed, and it warns of libraries for GPUs that a CPU cannot load.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    logging.getLogger("liger_kernel.backends").setLevel(logging.ERROR)  # of devices that are not this one
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # warned by what torchao registers


def import_bitsandbytes() -> None:
    """Without torch's compiler. PEFT imports it whether or not anything is quantized, and it has ``torch.compile`` wrap
    what devices compute with that it has no code of their own for, which imports the compiler: a second. On others than
    CPUs and CUDA's, those functions now run as they are written."""
    is_compiled = "bitsandbytes" in sys.modules or _UNCOMPILED in os.environ
    if not is_compiled:
        os.environ[_UNCOMPILED] = "1"
    try:
        import bitsandbytes  # noqa: F401
    finally:
        if not is_compiled:
            os.environ.pop(_UNCOMPILED, None)
