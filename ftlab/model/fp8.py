"""``train.fp8``: matrix products of the decoder's linear layers in 8-bit floating point, as torchao has them. Weights,
their gradients and the optimizer's states stay what they are, and so does everything that is saved: a layer rounds what
it multiplies, by scales that it finds anew in every product, and keeps nothing from one step to the next.

On a CPU the products are emulated: the same rounded numbers, multiplied in fp32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from ftlab.config.rules import FP8_CAPABILITY, FP8_MULTIPLE
from ftlab.errors import NotReadyError
from ftlab.model.load import uses_cpu
from ftlab.model.module_names import matches_name
from ftlab.model.modules import decoder_layers, is_linear
from ftlab.model.unadapted import unadapted_layers
from ftlab.schema import Run

# Of a mixture: which expert gets a token hangs on small differences.
_ROUTERS = ("gate", "router")


@dataclass(frozen=True)
class Fp8Layers:
    """What was changed of a model. :param scaling: as ``train.fp8`` has it. :param layers: in fp8.
    :param others: linear layers of the decoder that are not. :param torchao: its version."""

    scaling: str
    layers: int
    others: int
    is_emulated: bool
    torchao: str

    def __str__(self) -> str:
        many = f"{self.layers} of {self.layers + self.others} linear layers of the decoder"
        how = "by torchao; without train.compile=layers that may take longer than bf16 does (docs/speed.md)"
        if self.is_emulated:
            how = "emulated on a CPU: rounded as on a GPU, and slower than without"
        return f"fp8: {many} multiply in fp8 (train.fp8={self.scaling}), {how}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_fp8(run: Run) -> None:
    """Find out before anything is loaded. :raises NotReadyError: this device does not multiply in fp8."""
    if run.train.fp8 == "none" or uses_cpu(run):
        return
    if not torch.cuda.is_available():
        raise NotReadyError(f"train.fp8={run.train.fp8} needs a GPU of NVIDIA's, or a CPU. Use train.fp8=none.")
    if (found := float("{}.{}".format(*torch.cuda.get_device_capability()))) < FP8_CAPABILITY:
        raise NotReadyError(
            f"train.fp8={run.train.fp8}: {torch.cuda.get_device_name()} does not multiply in fp8. It has compute "
            f"capability {found}; {FP8_CAPABILITY} is needed (L4, RTX 4090, H100). "
            "Use train.fp8=none."
        )


def convert_linears(model: Any, run: Run) -> Fp8Layers:
    """Have the linear layers of the decoder that train multiply in fp8, in place: same parameters, same names.

    Left out are the head, embeddings and norms; routers; weights that do not train, for which torchao would compute a
    gradient all the same; and sizes that are no multiples of 16, which GPUs do not take.

    :param model: of transformers, without adapters. :raises NotReadyError: it has no such layer.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    layers, unlike = decoder_layers(model), unadapted_layers(model)

    def is_converted(module: nn.Module, path: str) -> bool:
        sizes = (module.in_features, module.out_features) if type(module) is nn.Linear else (1,)
        is_plain = path.rpartition(".")[2] not in _ROUTERS and not any(matches_name(path, name) for name in unlike)
        return (
            is_plain
            and all(size % FP8_MULTIPLE == 0 for size in sizes)
            and all(parameter.requires_grad for parameter in module.parameters(recurse=False))
        )

    is_emulated = uses_cpu(run)
    # A micro-batch has any number of tokens, and they are the inner size of a weight's gradient.
    config = replace(Float8LinearConfig.from_recipe_name(run.train.fp8), emulate=is_emulated, pad_inner_dim=True)
    every = sum(is_linear(module) for module in layers.modules())
    convert_to_float8_training(layers, module_filter_fn=is_converted, config=config)
    converted = [module for module in layers.modules() if type(module).__name__ == "Float8Linear"]
    if not converted:
        raise NotReadyError(
            f"train.fp8={run.train.fp8}: {type(model).__name__} has no linear layer that trains and whose sizes are "
            f"multiples of {FP8_MULTIPLE}. Use train.fp8=none."
        )
    if is_emulated:
        for module in converted:
            module.register_forward_pre_hook(_cast_input)
    return Fp8Layers(run.train.fp8, len(converted), every - len(converted), is_emulated, version("torchao"))


def _cast_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """torchao looks whether the autocast of a GPU is on, and does then what this does on a CPU."""
    if not torch.is_autocast_enabled("cpu"):
        return inputs
    return tuple(tensor.to(torch.get_autocast_dtype("cpu")) for tensor in inputs)
