"""What is held from the first step to the last: weights, gradients, optimizer states, on one device and in the host.

Bytes. P parameters that train, F frozen ones, N devices.
"""

from __future__ import annotations

import math

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.model.prequantized import Packing
from ftlab.preflight.memory.device import Device
from ftlab.preflight.memory.layers import (
    Linear,
    adapter_elements,
    critic_elements,
    expert_elements,
    is_upcast,
    largest_trained,
    linears,
    packing_of,
    trainable_elements,
)
from ftlab.pretrained import shape as counts
from ftlab.schema import Run
from ftlab.stages.trainer.optimizers import bytes_of_states

_BLOCK, _NESTED = 64, 256  # elements with one constant: of 4-bit weights, of constants
_SUB_GROUP = 10**9  # elements that DeepSpeed's stage 3 takes a step of at once
_GROUPED = ("gptq", "awq")
_STATE = 4  # bytes of an optimizer's running mean in fp32


def temporaries_of_step(run: Run, device: Device) -> float:
    """What the step of the optimizer works with besides. That of torch's AdamW, on a GPU, takes all parameters at once
    (``foreach``), with one square root for each; on a CPU one after the other, with the root and its quotient [T].
    DeepSpeed's makes a copy in fp32 of the gradients that the device has a share of (stage_1_and_2.py, ``step``), at
    stage 3 in parts (``sub_group_size``), and gives torch's one row of numbers.
    """
    deepspeed = run.deepspeed
    if deepspeed.offload_optimizer:
        return 0.0
    trained = (trainable_elements(run) + critic_elements(run)) / sharded(run, device)[0]
    if deepspeed.stage == 3:
        trained = min(trained, _SUB_GROUP)
    found = _STATE * trained if uses_deepspeed(run) else 0.0
    largest = trained if uses_deepspeed(run) else min(largest_trained(run), trained)
    if run.train.optimizer in ("adamw_torch", "adagrad", "rmsprop", "adafactor", "stable_adamw", "grokadamw"):
        found += _STATE * trained if device.kind == "gpu" else 2 * _STATE * largest
    return found


def weight_bytes(run: Run, device: Device) -> dict[str, float]:
    """Of the base model by part, on one device and unsharded. Trained weights are fp32, frozen ones of the compute
    dtype; beside quantized ones PEFT makes everything fp32 but experts (ftlab/model/adapter.py)."""
    shape, packed = run.model.architecture, packing_of(run)
    is_frozen = run.method.name == "lora"
    each = device.precision if is_frozen and not is_upcast(run) else 4
    every = linears(shape).values()
    linear = shape.layers * sum(one.elements for one in every)
    experts = shape.layers * expert_elements(shape)
    head, embedding = counts.lm_head_parameters(shape), counts.embedding_parameters(shape)
    rest = counts.parameter_count(shape) - linear - experts - head - embedding  # norms, biases, routers
    of_head = device.precision if run.stage.name == "rm" and packed is None else each  # it does not train
    found = {"embeddings": each * float(embedding), "head": of_head * float(head)}
    if experts:
        found["experts"] = float(experts) * (device.precision if is_frozen else 4)
    found["layers"] = each * float(rest)
    if packed is None:
        found["layers"] += each * linear
        return found
    found["layers"] += linear * packed.bits / 8
    if packed.kind in _GROUPED:
        found["quantization constants"] = shape.layers * sum(_group_bytes(one, packed) for one in every)
    elif packed.bits == 8:
        found["quantization constants"] = 4.0 * shape.layers * sum(one.outputs for one in every)
    else:
        blocks = linear / _BLOCK
        nested = blocks + 4 * blocks / _NESTED
        found["quantization constants"] = nested if packed.double_quantization else 4 * blocks
    return found


def _group_bytes(layer: Linear, packed: Packing) -> float:
    """Of GPTQ and AWQ: for each group of an output's weights a scale in 16 bits and a zero point in as many as a weight
    has; GPTQ also has the group of each input, in 32 bits [G]."""
    groups = math.ceil(layer.inputs / (packed.group or layer.inputs))
    return groups * layer.outputs * (2 + packed.bits / 8) + (4 * layer.inputs if packed.kind == "gptq" else 0)


def sharded(run: Run, device: Device) -> tuple[int, int, int]:
    """By how many devices optimizer states, gradients and parameters are divided [Z]."""
    count, stage = device.count, run.deepspeed.stage
    if run.hardware.fsdp or stage == 3:
        return count, count, count
    return (count if stage in (1, 2) else 1), (count if stage == 2 else 1), 1


def trained_bytes(run: Run, device: Device) -> tuple[dict[str, float], float]:
    """Gradients and optimizer states of the policy on one device, and bytes in the host's memory.

    Without DeepSpeed both are fp32. DeepSpeed in 16 bits keeps weights and gradients in 16 bits and an fp32 copy of the
    weights with the states [Z]: 2 P + 2 P + (4 + states) P; the fp32 weights of :func:`weight_bytes` are then 2 P. In
    fp32 it has that copy too.
    """
    trained = float(trainable_elements(run))
    by_states, by_gradients, _ = sharded(run, device)
    states = bytes_of_states(run.train.optimizer, trained)
    is_zero = uses_deepspeed(run)
    gradients, copies, host = 4 * trained, 4 * trained if is_zero else 0.0, 0.0
    if is_zero and device.precision == 2:
        gradients = 2 * trained
    states, gradients, copies = states / by_states, gradients / by_gradients, copies / by_states
    if run.deepspeed.offload_optimizer:
        host, states, copies = states + copies + gradients * 2 / device.precision, 0.0, 0.0
    elif run.train.optimizer.startswith("paged_") and device.kind == "gpu":
        pass  # pages leave the device only where it is full: what is there is what counts
    found = {"gradients": gradients, "optimizer states": states}
    if copies:
        found["fp32 copies of trained weights"] = copies
    return found, host


def gather_bytes(run: Run, device: Device) -> float:
    """Buffers of what devices exchange. DDP keeps every gradient a second time, in buckets. ZeRO-1 and 2 have two
    buckets of hidden_size ** 2 elements (transformers' ``auto``); ZeRO-3 holds two whole layers at once, or the
    embedding, in the precision of matrix products."""
    if device.count == 1:
        return 0.0
    shape, trained = run.model.architecture, trainable_elements(run)
    if run.hardware.fsdp:
        return _fsdp_gather_bytes(run, device)
    if run.deepspeed.stage == 3:
        layer = 2 * counts.layer_parameters(shape)
        most = max(layer, counts.embedding_parameters(shape))
        return float(device.precision * most)
    if run.deepspeed.stage in (1, 2):
        return 2.0 * device.precision * min(shape.hidden_size**2, trained)
    return 4.0 * trained


def _fsdp_gather_bytes(run: Run, device: Device) -> float:
    """Two layers at once, and from the forward to the end of the backward what is beside the layers, the embedding and
    the head (ftlab/distributed/fsdp.py). Of what trains each has its gradient then; a layer's is copied once more, in
    fp32, for the other devices to add theirs."""
    weights, layers = weight_bytes(run, device), run.model.architecture.layers
    outside = weights["embeddings"] + weights["head"]
    layer = (weights["layers"] + weights.get("experts", 0.0)) / layers
    if run.method.name == "lora":
        return outside + 2 * (layer + 4.0 * adapter_elements(run) / layers)
    gathered = layer * device.precision / 4
    return 2 * outside + 2 * gathered + gathered + layer
