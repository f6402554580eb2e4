"""A saved LoRA adapter with another rank or scale, computing the same as far as its rank allows."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlab.errors import NotReadyError
from ftlab.rundir.files import move_folder, temporary_folder

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


def copy_with_rank(adapter: Path, target: Path, rank: int, alpha: float) -> None:
    """Write an adapter with another rank and ``lora_alpha``. What it adds to a weight, scale * B A, stays what it was.

    A higher rank gets rows of A as PEFT begins them, drawn by the name of the module, and columns of B of zeros. A
    lower one keeps the largest singular values of B A: nothing of that rank is nearer (Eckart and Young 1936,
    https://doi.org/10.1007/BF02288367).

    :param adapter: a folder of PEFT's. :param target: which is made.
    :raises NotReadyError: it has a rank for some modules of its own.
    """
    from safetensors.torch import load_file, save_file

    config = json.loads((adapter / _CONFIG).read_text(encoding="utf-8"))
    if config.get("rank_pattern"):
        raise NotReadyError(f"{adapter} has modules with a rank of their own, so its rank cannot be changed.")
    before = _scale(config)
    config |= {"r": rank, "lora_alpha": alpha}
    ratio = before / _scale(config)
    tensors = load_file(adapter / _WEIGHTS)
    for names in _pairs(tensors):
        A_RK, B_MR = (tensors[name] for name in names)
        tensors.update(zip(names, _with_rank(A_RK, B_MR, rank, ratio, names[0])))
    writing = temporary_folder(target)
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    save_file({name: one.contiguous() for name, one in tensors.items()}, writing / _WEIGHTS, {"format": "pt"})
    (writing / _CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    move_folder(writing, target)


def _scale(config: dict[str, Any]) -> float:
    """What PEFT multiplies B A by."""
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pairs(tensors: dict[str, Tensor]) -> Iterator[tuple[str, str]]:
    """The names of A and B of each module."""
    for name in sorted(tensors):
        for first, second in _PAIRS:
            if name.endswith(first):
                yield name, name.removesuffix(first) + second


def _with_rank(A_RK: Tensor, B_MR: Tensor, rank: int, ratio: float, name: str) -> tuple[Tensor, Tensor]:
    """:param ratio: by which B A grows, so that the product with the new scale is what it was.
    :param name: of the module, which rows of A that are new are drawn by."""
    old = len(A_RK)
    if rank >= old:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        bound = 1 / math.sqrt(A_RK.shape[1])  # kaiming_uniform_ with a = sqrt(5), as PEFT has it
        new = (2 * torch.rand(rank - old, A_RK.shape[1], generator=generator) - 1) * bound
        zeros = B_MR.new_zeros(len(B_MR), rank - old)
        return torch.cat([A_RK, new.to(A_RK)]), torch.cat([B_MR * ratio, zeros], 1)
    of_b, b_RR = torch.linalg.qr(B_MR.double())
    of_a, a_RR = torch.linalg.qr(A_RK.double().T)
    U_RR, S_R, V_RR = torch.linalg.svd(b_RR @ a_RR.T)
    root = (S_R[:rank] * ratio).sqrt()
    return (root[:, None] * V_RR[:rank] @ of_a.T).to(A_RK), (of_b @ U_RR[:, :rank] * root).to(B_MR)
