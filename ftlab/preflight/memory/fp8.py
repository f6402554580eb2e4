"""What ``train.fp8`` takes: bytes on one device.

Both factors of a product are rounded before (torchao/float8/float8_training_tensor.py, ``_ToFloat8ConstrFunc``): copied
in fp32, scaled, clamped, and only then one byte a number. Its layers keep what goes into them and the weight as they
are, so autocast makes no copy of that.
"""

from __future__ import annotations

from ftlab.config.rules import FP8_MULTIPLE
from ftlab.preflight.memory.device import Device
from ftlab.preflight.memory.layers import Linear, chosen_names, linears
from ftlab.schema import Run

_ROUNDING = 9  # a number that is being rounded: in fp32 twice, scaled and clamped, and rounded


def fp8_linears(run: Run) -> dict[str, Linear]:
    """Of a decoder layer that trains, the linear layers that multiply in fp8."""
    if run.train.fp8 == "none":
        return {}
    method, every = run.method, linears(run.model.architecture)
    if method.name == "freeze" and method.trainable_modules is not None:
        names = chosen_names(method.trainable_modules)
        every = {name: layer for name, layer in every.items() if name in names}
    return {
        name: layer
        for name, layer in every.items()
        if layer.inputs % FP8_MULTIPLE == 0 and layer.outputs % FP8_MULTIPLE == 0
    }


def fp8_layers(run: Run) -> int:
    """Decoder layers that have them."""
    method, layers = run.method, run.model.architecture.layers
    if method.name != "freeze":
        return layers
    return abs(method.trainable_layers or 0) or (layers if method.trainable_modules is not None else 0)


def fp8_elements(run: Run) -> int:
    """Weights that are rounded for their products."""
    return fp8_layers(run) * sum(layer.elements for layer in fp8_linears(run).values())


def fp8_cast_bytes(run: Run, device: Device, tokens: int) -> float:
    """What the backward of a linear layer works with besides the gradients that it makes, at most. :param tokens: of a
    micro-batch."""
    if not fp8_layers(run):
        return 0.0
    is_weight_exact, is_emulated = run.train.fp8 == "rowwise_with_gw_hp", device.kind == "cpu"
    return max(
        (linear_cast_bytes(layer, tokens, device.precision, is_weight_exact, is_emulated)
         for layer in fp8_linears(run).values()), default=0.0,
    )  # fmt: skip


def linear_cast_bytes(layer: Linear, tokens: int, precision: int, is_weight_exact: bool, is_emulated: bool) -> float:
    """Of one layer: the product for the gradient of its input, and then that for its weight's, while what the first had
    rounded is still there. :param precision: bytes of a number of the gradients.
    :param is_weight_exact: whether the second is not in fp8."""
    inputs, weight, outputs = tokens * layer.inputs, layer.elements, tokens * layer.outputs
    first = _product_bytes(outputs, weight, inputs, precision, is_emulated)
    if is_weight_exact:
        return first
    return max(first, outputs + weight + _product_bytes(outputs, inputs, weight, precision, is_emulated))


def _product_bytes(first: int, second: int, out: int, precision: int, is_emulated: bool) -> float:
    """:param first, second: elements of the factors. :param out: of what comes out."""
    rounded = first + second  # a byte each; and once more, laid out for the kernel
    rounding = max(_ROUNDING * first, first + _ROUNDING * second)
    if not is_emulated:
        return max(rounding, 2 * rounded + precision * out)
    # Both are unpacked to fp32, one after the other, and divided by their scales.
    unpacking = 2 * rounded + 4 * first + 8 * second
    return max(rounding, unpacking, 6 * rounded + 4 * out)
