"""When a run needs most, and what it holds then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.preflight.memory import activations as act
from ftlab.preflight.memory import states
from ftlab.preflight.memory.device import CONTEXT, Device, device_of
from ftlab.preflight.memory.layers import adapter_elements, trainable_elements, trained_layers
from ftlab.pretrained import shape as counts
from ftlab.schema import GrpoStage, PpoStage, Run


@dataclass(frozen=True)
class Prediction:
    """The peak of one device.

    :param moment: when it is reached. :param parts: bytes held then, by name, largest kinds first as they are counted.
    :param host: bytes in the host's memory besides, of what is offloaded.
    :param trainable, parameters: of the model.
    """

    device: Device
    moment: str
    parts: dict[str, float]
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
    return Prediction(device, moment, parts, host, trainable_elements(run), total + extra)


def _held(run: Run, device: Device) -> tuple[dict[str, float], float]:
    """What is there all the time, and what is in the host's memory."""
    _, _, divided = states.sharded(run, device)
    weights = states.weight_bytes(run, device)
    halves = uses_deepspeed(run) and device.precision == 2  # DeepSpeed's own fp32 copies are counted apart
    if halves and run.method.name != "lora":
        weights = {name: value / 2 for name, value in weights.items()}
    adapter = (2 if halves else 4) * adapter_elements(run) if run.method.name == "lora" else 0
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
    held |= _roles(run, device, sum(weights.values()) / divided, trained)
    return held, host + of_states


def _roles(run: Run, device: Device, weights: float, trained: dict[str, float]) -> dict[str, float]:
    """Other models in the same memory (ftlab/model/roles.py): with adapters each is one more adapter on the same base;
    without, the critic and the reference of ppo are copies. dpo, kto and grpo compute the reference's numbers with the
    policy's own weights, before training or with its adapter switched off."""
    found: dict[str, float] = {}
    is_lora = run.method.name == "lora"
    adapter = 4.0 * adapter_elements(run) if is_lora else 0.0
    if isinstance(run.stage, PpoStage):
        own = adapter if is_lora else weights
        found["critic"] = own + trained["optimizer states"]
        found["reference"] = own
        if run.stage.reward_model is not None or any(name.startswith("model:") for name in run.stage.rewards):
            found["reward model"] = own
    if isinstance(run.stage, GrpoStage):
        judges = sum(name.startswith("model:") for name in run.stage.rewards)
        found["reward model"] = judges * (adapter if is_lora else weights)
        found["reference"] = weights if run.stage.beta and not is_lora else 0.0
    return found


def _moments(run: Run, device: Device) -> Iterator[tuple[str, dict[str, float]]]:
    """What is held beside that at each of the moments that may be the peak."""
    shape, train, rows = run.model.architecture, run.train, act.longest_rows(run)
    gradients = states.trained_bytes(run, device)[0]["gradients"]
    roles = 2 if isinstance(run.stage, PpoStage) else 1
    layers, layer = trained_layers(run), act.layer_bytes(run, device, rows)
    saved = layers * (act.checkpoint_bytes(run, device, rows) if train.gradient_checkpointing else layer)
    if train.gradient_checkpointing:
        saved += act.mask_bytes(rows)
    outside = act.kept_between_layers(run, device, rows)
    # Gradients are freed before the first micro-batch of a step and stay until its last.
    early = gradients if _accumulates(run) else 0.0
    copies = _autocast_copies(run, device)
    logits = 0.0 if run.stage.name == "rm" else act.logit_bytes(shape, rows)
    # The head's gradient is there first; where gradients are sharded it leaves in buckets, which are counted apart.
    is_whole = run.method.name == "full" and run.stage.name != "rm" and states.sharded(run, device)[1] == 1
    head = 4.0 * shape.vocab_size * shape.hidden_size if is_whole else 0.0
    working = act.backward_bytes(run, device, rows)
    one = layer if train.gradient_checkpointing else 0.0
    largest = float(shape.vocab_size * shape.hidden_size if run.method.name == "full" else 0)
    parts = states.sharded(run, device)[0]
    step = states.temporary_of_step(train.optimizer, device, trainable_elements(run) / parts, largest / parts)
    if uses_deepspeed(run):
        step = 0.0
    # FSDP has given back by then what it had gathered.
    gathered = {"gather buffers": 0.0} if run.hardware.fsdp else {}
    yield (
        "the loss, at the start of the backward pass",
        {"gradients": early, "activations": saved + outside, "autocast copies": copies, "logits": logits},
    )
    yield (
        "the last layer's backward pass",
        {
            "gradients": max(early, head),
            "activations": saved + outside + one + working,
            "autocast copies": copies,
        },
    )
    yield (
        "the first layer's backward pass",
        {"gradients": gradients, "activations": layer + working, "autocast copies": 0.0},
    )
    yield "the optimizer's step", {"gradients": gradients * roles, "optimizer's temporaries": step, **gathered}
    if isinstance(run.stage, PpoStage | GrpoStage):
        yield "the rollout", {"gradients": gradients * roles, **_generation(run, device)}
    if getattr(run.stage, "reference_model", None) is not None:
        weights = sum(states.weight_bytes(run, device).values())
        yield "the reference's pass", {"reference": weights, "activations": layer, "logits": logits / 2}


def _accumulates(run: Run) -> bool:
    return run.train.gradient_accumulation_steps > 1 or isinstance(run.stage, PpoStage)


def _generation(run: Run, device: Device) -> dict[str, float]:
    """Sequences that are written at once, with their keys and values, and the logits of one place of each."""
    stage, shape = run.stage, run.model.architecture
    assert isinstance(stage, PpoStage | GrpoStage)
    many = run.eval.batch_size
    if isinstance(stage, GrpoStage):
        many = run.train.micro_batch_size * (stage.steps_per_generation or run.train.gradient_accumulation_steps)
    length = run.data.max_length + stage.max_new_tokens
    element = act.widths(run, device).linear
    return {
        "KV cache": act.cache_bytes(shape, element, many, length),
        "logits": 2.0 * 4 * many * shape.vocab_size,
        "activations": act.layer_bytes(run, device, act.Rows(run.data.max_length, many, 0, True)),
    }


def _autocast_copies(run: Run, device: Device) -> float:
    """Trained weights are fp32; autocast makes a copy of each in 16 bits that lives as long as the graph."""
    if device.precision == 4 or uses_deepspeed(run):
        return 0.0
    if run.hardware.fsdp and run.method.name != "lora":  # a layer's are what is gathered
        shape = run.model.architecture
        return 2.0 * shape.vocab_size * shape.hidden_size
    if run.train.gradient_checkpointing:
        return 2.0 * trainable_elements(run) / run.model.architecture.layers
    return 2.0 * trainable_elements(run)
