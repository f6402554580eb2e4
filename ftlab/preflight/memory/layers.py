"""What a model is made of, and what of it trains: numbers of elements. No torch.

H hidden size, Q heads * head_dim, K kv_heads * head_dim, I intermediate size, V vocabulary, E experts, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.model import prequantized
from ftlab.model.prequantized import Packing
from ftlab.pretrained import shape as counts
from ftlab.schema import Architecture, PpoStage, Run

# How linear layers of several families are called -> the ones of a decoder that they stand for.
_FUSED = {
    "qkv_proj": ("q", "k", "v"), "W_pack": ("q", "k", "v"), "query_key_value": ("q", "k", "v"), "wqkv": ("q", "k", "v"),
    "c_attn": ("q", "k", "v"), "gate_up_proj": ("gate", "up"), "q_proj": ("q",), "k_proj": ("k",), "v_proj": ("v",),
    "o_proj": ("o",), "out_proj": ("o",), "dense": ("o",), "wo": ("o",), "gate_proj": ("gate",), "w1": ("gate",),
    "up_proj": ("up",), "w3": ("up",), "fc1": ("up",), "c_fc": ("up",), "dense_h_to_4h": ("up",),
    "down_proj": ("down",), "w2": ("down",), "fc2": ("down",), "c_proj": ("o", "down"), "dense_4h_to_h": ("down",),
    "mlp": ("gate", "up", "down"), "self_attn": ("q", "k", "v", "o"),
}  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder layer. :param inputs, outputs: its sizes."""

    inputs: int
    outputs: int

    @property
    def elements(self) -> int:
        return self.inputs * self.outputs


def linears(shape: Architecture) -> dict[str, Linear]:
    """The linear layers of one decoder layer; of a mixture without its experts, which are fused weights."""
    h, q, k, i = shape.hidden_size, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, _inner(shape)
    found = {"q": Linear(h, q), "k": Linear(h, k), "v": Linear(h, k), "o": Linear(q, h)}
    if shape.experts > 1:
        return found
    gate = {"gate": Linear(h, i)} if shape.gated_mlp else {}
    return {**found, **gate, "up": Linear(h, i), "down": Linear(i, h)}


def _inner(shape: Architecture) -> int:
    return shape.intermediate_size


def packing_of(run: Run) -> Packing | None:
    """How the weights of linear layers are stored: as ``quant`` says, or as the checkpoint has them; None: as they
    are."""
    if run.quant.name == "none":
        return prequantized.packing(run.model)
    return Packing("bitsandbytes", 8 if run.quant.name == "int8" else 4, None, run.quant.double_quantization)


def is_upcast(run: Run) -> bool:
    """Whether PEFT makes everything fp32 that is not packed, and with it the hidden states: beside all packed weights
    but GPTQ's (``prepare_model_for_kbit_training``)."""
    packed = packing_of(run)
    return packed is not None and packed.kind != "gptq"


def expert_elements(shape: Architecture) -> int:
    """Of one decoder layer: every expert; 0 where there are none."""
    return shape.experts * counts.expert_parameters(shape) if shape.experts > 1 else 0


def chosen_names(names: tuple[str, ...]) -> set[str]:
    """The layers that names of modules stand for, by the last part of each."""
    return {one for name in names for one in _FUSED.get(name.rpartition(".")[2], ())}


def adapted(run: Run) -> dict[str, Linear]:
    """The linear layers of a decoder layer that get an adapter."""
    every, targets = linears(run.model.architecture), run.lora.target_modules
    if targets == "all-linear":
        return every
    chosen = {"q", "v"} if targets == "default" else chosen_names(targets)
    return {name: layer for name, layer in every.items() if name in chosen}


def adapter_elements(run: Run) -> int:
    """Of the whole adapter: r * (inputs + outputs) for each layer [L], and DoRA's magnitudes; experts with a share of
    the rank (ftlab/model/experts.py)."""
    shape, r = run.model.architecture, run.lora.r
    layer = sum(r * (one.inputs + one.outputs) for one in adapted(run).values())
    if run.lora.variant == "dora":
        layer += sum(one.outputs for one in adapted(run).values())
    if adapts_experts(run):
        rank, inward = max(r // shape.experts_per_token, 1), 2 if shape.gated_mlp else 1
        h, i = shape.hidden_size, shape.intermediate_size
        layer += shape.experts * rank * (h + inward * i + i + h)
        layer += r * (h + shape.experts)  # the router
    head = shape.hidden_size if run.stage.name == "rm" else 0
    return shape.layers * layer + head


def adapts_experts(run: Run) -> bool:
    """As :func:`ftlab.model.experts.wants_adapters` decides it."""
    if run.model.architecture.experts == 1:
        return False
    lora = run.lora
    if lora.experts == "auto":
        is_plain = lora.variant not in ("dora", "pissa") and run.quant.name == "none"
        return lora.target_modules == "all-linear" and is_plain
    return bool(lora.experts)


def trainable_elements(run: Run) -> int:
    """Parameters that train."""
    shape, method = run.model.architecture, run.method
    if method.name == "lora":
        return adapter_elements(run)
    is_rm = run.stage.name == "rm"
    head = shape.hidden_size if is_rm else 0
    idle = counts.lm_head_parameters(shape) if is_rm else 0  # scores are not made of logits
    if method.name == "full":
        return counts.parameter_count(shape) - idle + head
    layers = abs(method.trainable_layers or 0) or shape.layers
    if method.trainable_modules is not None:
        every = linears(shape)
        total = layers * sum(every[name].elements for name in chosen_names(method.trainable_modules) if name in every)
    else:
        total = (abs(method.trainable_layers or 0)) * counts.layer_parameters(shape)
    if method.train_embeddings:
        total += counts.embedding_parameters(shape) + counts.lm_head_parameters(shape) - idle
    if method.train_norms:
        whole = 0 if method.trainable_modules is not None else abs(method.trainable_layers or 0)
        total += ((shape.layers - whole) * shape.norms_per_layer + 1) * counts.norm_parameters(shape)
    return total + head


def trained_layers(run: Run) -> int:
    """Decoder layers that a gradient passes through, and whose activations are therefore kept."""
    method, layers = run.method, run.model.architecture.layers
    if method.name != "freeze" or method.train_embeddings or method.train_norms or not method.trainable_layers:
        return layers
    return method.trainable_layers if method.trainable_layers > 0 else layers


def critic_elements(run: Run) -> int:
    """Parameters of ppo's critic that get a gradient: those of the policy without its head, which values are not made
    of; 0 without a critic. DeepSpeed has all that train in one row of numbers, with zeros for the head's."""
    if not isinstance(run.stage, PpoStage):
        return 0
    if uses_deepspeed(run):
        return trainable_elements(run)
    trains_head = run.method.name == "full" or (run.method.name == "freeze" and run.method.train_embeddings)
    idle = counts.lm_head_parameters(run.model.architecture) if trains_head else 0
    return trainable_elements(run) - idle


def largest_trained(run: Run) -> int:
    """Elements of the largest matrix that trains: of a layer, of all its experts (gate and up are one), or of the
    embedding; 0 under adapters, whose are small."""
    shape, method = run.model.architecture, run.method
    if method.name == "lora":
        return 0
    inward = (2 if shape.gated_mlp else 1) * shape.hidden_size * shape.intermediate_size
    found = [one.elements for one in linears(shape).values()] + [shape.experts * inward if shape.experts > 1 else 0]
    if method.name == "full" or method.train_embeddings:
        found.append(shape.vocab_size * shape.hidden_size)
    return max(found)
