"""When a run needs most, and what it holds then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.preflight.memory import activations as act
from ftlab.preflight.memory import states
from ftlab.preflight.memory.device import CONTEXT, Device, device_of
from ftlab.preflight.memory.fp8 import fp8_cast_bytes, fp8_elements
from ftlab.preflight.memory.layers import adapter_elements, critic_elements, trainable_elements, trained_layers
from ftlab.pretrained import shape as counts
from ftlab.schema import GrpoStage, PpoStage, Run
from ftlab.stages.grpo.generations import plan_generations
from ftlab.stages.trainer.batching import PAIRED_STAGES


@dataclass(frozen=True)
class Prediction:
    """The peak of one device.

    :param moment: when it is reached. :param parts: bytes held then, by name, largest kinds first as they are counted.
    :param held: of what is there from the first step to the last, also between two of them.
    :param host: bytes in the host's memory besides, of what is offloaded.
    :param trainable, parameters: of the model.
    """

    device: Device
    moment: str
    parts: dict[str, float]
    held: dict[str, float]
    host: float
    trainable: int
    parameters: int

    @property
    def total(self) -> float:
        """What PyTorch counts as allocated."""
        return sum(self.parts.values())

    @property
    def needed(self) -> float:
        """With what the process holds outside of that count."""
        return self.total + CONTEXT

    def as_dict(self) -> dict[str, Any]:
        return {"moment": self.moment, "bytes": {name: round(value) for name, value in self.parts.items()}}


def predict(run: Run, device: Device | None = None) -> Prediction:
    """The most that one device holds at once in a run of one phase, with every row as long as it may be.

    :param device: what it is predicted for; None: what the config says.
    """
    device = device_of(run) if device is None else device
    held, host = _held(run, device)
    moments = {name: {**held, **more} for name, more in _moments(run, device)}
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: value for name, value in moments[moment].items() if value}
    total = counts.parameter_count(run.model.architecture)
    extra = run.model.architecture.hidden_size if run.stage.name == "rm" else 0
    extra = adapter_elements(run) if run.method.name == "lora" else extra  # with rm's head
    return Prediction(device, moment, parts, held, host, trainable_elements(run), total + extra)


def _held(run: Run, device: Device) -> tuple[dict[str, float], float]:
    """What is there all the time, and what is in the host's memory."""
    _, _, divided = states.sharded(run, device)
    weights = states.weight_bytes(run, device)
    halves = uses_deepspeed(run) and device.precision == 2  # DeepSpeed's own fp32 copies are counted apart
    if halves and run.method.name != "lora":
        weights = {name: value / 2 for name, value in weights.items()}
    each = 2.0 if halves else 4.0
    adapter = each * adapter_elements(run) if run.method.name == "lora" else 0
    held = {f"weights: {name}": value / divided for name, value in weights.items()}
    if "quantization constants" in weights:  # no parameters: every device has all of them
        held["weights: quantization constants"] = weights["quantization constants"]
    host = 0.0
    if run.deepspeed.offload_parameters:
        host += sum(held.values())
        held = {}
    if adapter:
        held["adapter"] = adapter / divided
    trained, of_states = states.trained_bytes(run, device)
    held |= {name: value for name, value in trained.items() if name != "gradients"}
    held |= {"gather buffers": states.gather_bytes(run, device)}
    held |= _roles(run, sum(weights.values()) / divided, each, trained)
    host += of_states * (1 + _critics_share(run))
    if offloads(run, device):
        host += trained_layers(run) * _pinned(act.checkpoint_bytes(run, device, act.longest_rows(run)))
    return held, host


def bytes_of_choices(run: Run, device: Device) -> dict[str, float]:
    """What a device holds for each of the choices that a plan shows, at the moment when that is most: of attention the
    masks, and what grows with the square of a row; of fp8 the numbers that are being rounded."""
    moments, rows = [more for _, more in _moments(run, device)], act.longest_rows(run)
    layers = 1 if run.train.gradient_checkpointing else trained_layers(run)
    return {
        "attention": act.mask_bytes(rows) + layers * act.attention_square(run, device, rows),
        "activations": max(more.get("activations", 0.0) for more in moments),
        "optimizer": states.trained_bytes(run, device)[0]["optimizer states"] * (1 + _critics_share(run)),
        "fp8": fp8_cast_bytes(run, device, rows.tokens),
    }


def _pinned(count: float) -> float:
    """Of page-locked memory, of which torch gives out powers of two (ATen/core/CachingHostAllocator.h)."""
    return 2.0 ** math.ceil(math.log2(count))


def _critics_share(run: Run) -> float:
    """How much of what a policy's parameters have, gradients and states, ppo's critic has besides."""
    critic = critic_elements(run)
    return critic / trainable_elements(run) if critic else 0.0


def _roles(run: Run, weights: float, each: float, trained: dict[str, float]) -> dict[str, float]:
    """Other models in the same memory. With adapters each is one more adapter on the same base, without, the critic and
    the reference of ppo are copies of what trains (ftlab/model/roles.py), as is the policy at the start of grpo
    (StartPolicy), which under adapters is there for evaluations too. dpo and kto compute the reference's numbers with
    the policy's own weights, before training or with its adapter switched off.

    :param each: bytes of a weight that trains. :param trained: what is held beside the policy's.
    """
    found: dict[str, float] = {}
    is_lora = run.method.name == "lora"
    own = each * trainable_elements(run)
    judge = each * adapter_elements(run) if is_lora else weights
    if isinstance(run.stage, PpoStage):
        beside = sum(value for name, value in trained.items() if name != "gradients")
        found["critic"] = own + beside * _critics_share(run)
        found["reference"] = own
        if run.stage.reward_model is not None:
            found["reward model"] = judge
        else:
            found["reward model"] = judge * _judges(run.stage)
    if isinstance(run.stage, GrpoStage):
        found["reward model"] = judge * _judges(run.stage)
        found["reference"] = own if run.stage.beta or is_lora else 0.0
    return found


def _judges(stage: PpoStage | GrpoStage) -> int:
    return sum(name.startswith("model:") for name in stage.rewards)


def _moments(run: Run, device: Device) -> Iterator[tuple[str, dict[str, float]]]:
    """What is held beside that at each of the moments that may be the peak."""
    stage = run.stage
    gradients = states.trained_bytes(run, device)[0]["gradients"]
    step = states.temporaries_of_step(run, device)
    # FSDP has given back by then what it had gathered.
    gathered = {"gather buffers": 0.0} if run.hardware.fsdp else {}
    rows = act.longest_rows(run)
    logits = 0.0 if stage.name == "rm" else act.logit_bytes(run, device, rows)
    # Gradients are freed before the first micro-batch of a step and stay until its last.
    early = gradients if _accumulates(run, rows) else 0.0
    yield from _backward(run, device, rows, gradients, early, 0.0, logits)
    of_critic = gradients * _critics_share(run)
    if of_critic:
        for name, more in _backward(run, device, rows, of_critic, min(early, of_critic), gradients, 0.0):
            yield f"{name} of the critic", more
    yield "the optimizer's step", {"gradients": gradients + of_critic, "optimizer's temporaries": step, **gathered}
    if isinstance(stage, PpoStage | GrpoStage):
        yield from _rollout(run, device, stage, gradients)
    if getattr(stage, "reference_model", None) is not None:
        weights = sum(states.weight_bytes(run, device).values())
        layer = act.layer_bytes(run, device, rows)
        yield "the reference's pass", {"reference": weights, "activations": layer, "logits": logits}


def _backward(
    run: Run, device: Device, rows: act.Rows, gradients: float, early: float, others: float, logits: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """The moments of one model's forward and backward.

    :param gradients: bytes of all its own. :param early: of those that are there before. :param others: of another's.
    """
    shape, train = run.model.architecture, run.train
    layers, layer = trained_layers(run), act.layer_bytes(run, device, rows)
    again, kept = 0.0, act.kept_bytes(run, device, rows)
    saved = layers * layer
    if train.gradient_checkpointing:  # what was kept of a layer is used up as the layer is computed again
        again = layer - kept
        inputs = act.checkpoint_bytes(run, device, rows)
        saved = (inputs if offloads(run, device) else layers * inputs) + layers * kept + act.mask_bytes(rows)
    saved += act.kept_between_layers(run, device, rows)
    copies = _autocast_copies(run, device)
    # The head's gradient is there first; where gradients are sharded it leaves in buckets, which are counted apart.
    is_whole = run.method.name == "full" and states.sharded(run, device)[1] == 1
    matrix = 4.0 * shape.vocab_size * shape.hidden_size if is_whole else 0.0
    head = matrix if logits > 0 else 0.0
    # It is added to one that is there already; of pairs that of a chunk is to those before it. pt and sft sum in place.
    is_added = bool(early) or (run.stage.name in PAIRED_STAGES and act.has_chunks(run, rows))
    # The embedding's comes last, unless it is the head's.
    late = matrix if not (shape.tied_embeddings and head) and not early else 0.0
    working, casts = act.backward_bytes(run, device, rows), fp8_cast_bytes(run, device, rows.tokens)
    yield (
        "the loss, at the start of the backward pass",
        {
            "gradients": others + max(early, head),
            "activations": saved,
            "autocast copies": copies,
            "logits": logits + head * is_added,
        },
    )
    yield (
        "the last layer's backward pass",
        {
            "gradients": others + max(early, head),
            "activations": saved + again + working,
            "autocast copies": copies,
            "fp8 casts": casts,
        },
    )
    yield (
        "the first layer's backward pass",
        {
            "gradients": others + gradients - late,
            "activations": layer + working,
            "autocast copies": 0.0,
            "fp8 casts": casts,
        },
    )


def offloads(run: Run, device: Device) -> bool:
    """Whether the layers' inputs are in the host's memory, but for one on its way."""
    return run.train.activation_offload and device.kind == "gpu"


def _accumulates(run: Run, rows: act.Rows) -> bool:
    if isinstance(run.stage, PpoStage):
        return rows.count < run.stage.mini_batch_size
    return run.train.gradient_accumulation_steps > 1


def _rollout(
    run: Run, device: Device, stage: PpoStage | GrpoStage, gradients: float
) -> Iterator[tuple[str, dict[str, float]]]:
    """Sequences that are written at once, with their keys and values, and the logits of one place of each. Gradients
    are there where a rollout comes in the middle of a step."""
    shape = run.model.architecture
    if isinstance(stage, GrpoStage):
        steps = plan_generations(run, device.count).steps
        many, there = run.train.micro_batch_size * steps, steps % run.train.gradient_accumulation_steps != 0
    else:
        many, there = min(run.eval.batch_size, stage.rollout_batch_size), False
    width = run.data.max_length + stage.max_new_tokens
    held = {"gradients": gradients if there else 0.0}
    cache = act.cache_bytes(shape, act.widths(run, device).linear, many, width)
    prompts = act.Rows(run.data.max_length, many, many, True)
    yield (
        "the rollout, as the prompts are read",
        {
            **held,
            "KV cache": cache * run.data.max_length / width,
            "activations": act.forward_bytes(run, device, prompts),
        },
    )
    yield (
        "the rollout's last token",
        # Keys and values of a layer are written anew with each token, and what was there is freed.
        {**held, "KV cache": cache * (1 + 0.5 / shape.layers), "logits": act.sampling_bytes(shape, many)},
    )
    if isinstance(stage, PpoStage):
        scored = act.rows_of_answers(run, stage, stage.rollout_batch_size)
        yield (
            "the log-probabilities of the rollout",
            {"activations": act.forward_bytes(run, device, scored), "logits": act.scoring_bytes(run, scored)},
        )


def _autocast_copies(run: Run, device: Device) -> float:
    """Trained weights are fp32; autocast makes a copy of each in 16 bits that lives as long as the graph."""
    if device.precision == 4 or uses_deepspeed(run):
        return 0.0
    if run.hardware.fsdp and run.method.name != "lora":  # a layer's are what is gathered
        shape = run.model.architecture
        return 2.0 * shape.vocab_size * shape.hidden_size
    copied = trainable_elements(run) - fp8_elements(run)  # which are rounded as they are, in fp32
    return 2.0 * copied / (run.model.architecture.layers if run.train.gradient_checkpointing else 1)
