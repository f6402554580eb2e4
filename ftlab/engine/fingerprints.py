"""What weights are known by where copying them would cost too much: whole numbers, exact on every device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlab.distributed.sharding import Sharding
from ftlab.errors import RunDirError
from ftlab.rundir.names import WEIGHT_FILES


def weight_sums(model: Any, sharding: Sharding) -> dict[str, int]:
    """Of each weight that trains, the sum of its bits as whole numbers; where weights are sharded, of this process's
    part of it. No process waits for another."""
    import torch

    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    parts = {name: sharding.local(p) for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: int(part.contiguous().view(kinds[part.element_size()]).sum(dtype=torch.int64))
        for name, part in parts.items()
        if part.numel()
    }


def check_saved(final: Path, model: Any, before: Mapping[str, int], sharding: Sharding) -> str | None:
    """Check what was saved of an adapter: that it has all of its tensors, and is no longer as it was before training.

    :param model: the trained model. :param before: its :func:`weight_sums` before the first step.
    :returns: a line to tell where training has changed no weight at all, which is a fact and no error.
    :raises RunDirError: the file lacks tensors, or has them as they were before although training has changed them.
    """
    from safetensors import safe_open

    from ftlab.model.guests import has_adapter

    after = weight_sums(model, sharding)
    changed = [name for name, value in after.items() if before.get(name) != value]
    if has_adapter(model):
        own = [(name, p) for name, p in model.named_parameters() if "default" in name.split(".") and ".lora_" in name]
        wanted = sum(sharding.elements(p) for _, p in own if p.requires_grad)
        saved, is_idle = 0, True
        for path in sorted(final.iterdir()):
            if path.suffix not in WEIGHT_FILES or path.suffix != ".safetensors":
                continue
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_tensor(name)
                    saved += tensor.numel() if ".lora_" in name else 0
                    is_idle &= not (".lora_B." in name or ".lora_embedding_B" in name) or not tensor.any().item()
        was_idle = all(value == 0 for name, value in before.items() if ".lora_B." in name)
        if saved < wanted:
            raise RunDirError(f"{final} has {saved:,} numbers of the adapter, and {wanted:,} were trained.")
        if is_idle and was_idle and any(".lora_B." in name for name in changed):
            raise RunDirError(f"{final} has the adapter as it was before training, and not as it was trained.")
    if changed or not after:
        return None
    return "training changed no weight: the learning rate or every gradient was 0"
