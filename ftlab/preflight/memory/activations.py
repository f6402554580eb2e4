"""What the backward pass needs of the forward, and what both work with: bytes on one device.

H hidden size, Q heads * head_dim, K kv_heads * head_dim, I intermediate size, V vocabulary, T tokens of a micro-batch,
L tokens of its longest row, N scored positions. Three widths of an element: ``stream``, of the hidden states between
layers; ``linear``, of what a linear layer gives; ``product``, of what goes into a matrix product.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from ftlab.distributed.sharding import uses_deepspeed
from ftlab.model.kept_products import kept_products
from ftlab.preflight.memory.device import Device
from ftlab.preflight.memory.kernels import has_liger
from ftlab.preflight.memory.layers import adapted, adapts_experts, expert_elements, is_upcast, linears
from ftlab.schema import Architecture, GrpoStage, PpoStage, Run
from ftlab.stages.trainer.batching import LOGIT_ELEMENTS, PAIRED_STAGES

# Of one chunk of fp32 logits: themselves, in whose memory their exponentials and their gradient are made
# (ftlab.stages.trainer.target_logprobs), and before and after that, where products are of 16 bits, a copy of these.
_LOGITS_AT_ONCE, _LOGITS_IN_16_BITS = 1, 0.5
_LOGITS_AND_ENTROPY_AT_ONCE = 6.25  # of ppo: also their log-softmax, its exponential, and the gradients of both [T]
_SCORED_AT_ONCE = 5
_TILE_ROWS, _TILE_WIDTH, _TILES_AT_ONCE = 4096, 32768, 7.25  # of grpo
_BY_SEGMENT = frozenset({
    "llama", "llama4_text", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma3_text", "phi", "phi3",
    "smollm3", "olmo3", "ministral3", "granite", "glm4", "glm4_moe", "gemma4_text", "cohere", "starcoder2", "gpt_neox",
    "opt",
})  # fmt: skip
_RESIDUALS = 2  # of a decoder layer: after the attention and after the feed-forward


@dataclass(frozen=True)
class Rows:
    """What one forward takes. :param width: tokens of the longest row. :param count: rows.
    :param scored: positions whose logits are looked at. :param is_masked: whether a mask keeps packed samples apart.
    """

    width: int
    count: int
    scored: int
    is_masked: bool

    @property
    def tokens(self) -> int:
        return self.width * self.count


def foreseen_attention(run: Run) -> str:
    """How attention will be computed, in words: what ``model.attention=auto`` comes to is found by trying it on a row,
    as the run begins."""
    if run.model.attention != "auto":
        return run.model.attention
    if goes_by_segment(run):
        return "auto: by segments, without a mask, where the run finds that right for its model"
    if _is_eager(run):
        return "auto: eager, the model's own"
    return "auto: sdpa" + (", with a mask of each row's samples" if longest_rows(run).is_masked else "")


def longest_rows(run: Run) -> Rows:
    """The largest micro-batch that the config allows: every row as long as it may be, and every position scored."""
    stage, train, length = run.stage, run.train, run.data.max_length
    if isinstance(stage, PpoStage):
        return rows_of_answers(run, stage, stage.mini_batch_size)
    if isinstance(stage, GrpoStage):
        count, width = train.micro_batch_size, length + stage.max_new_tokens
        return Rows(width, count, count * stage.max_new_tokens, True)  # padded on both sides, and so masked
    samples = 2 if stage.name in PAIRED_STAGES else 1
    width, count = length * samples, train.micro_batch_size
    scored = 2 * samples if stage.name == "rm" else width
    is_flat = run.model.attention == "flash_attention_2" or goes_by_segment(run)
    is_masked = not is_flat and (samples > 1 or (run.data.packing is not False and run.data.reset_positions))
    if is_flat:
        return Rows(width * count, 1, scored * count, False)
    return Rows(width, count, scored * count, is_masked)


def goes_by_segment(run: Run) -> bool:
    """Whether attention will be computed sample by sample, without a mask: foreseen of the families in which the probe
    of training has found it right."""
    is_free = run.model.attention == "auto" and run.train.engine == "ftlab" and run.stage.name not in ("ppo", "grpo")
    return is_free and run.model.architecture.family in _BY_SEGMENT


def rows_of_answers(run: Run, stage: PpoStage, answers: int) -> Rows:
    """What one forward of ppo takes of so many prompts with their answers: as many as ``train.micro_batch_size`` rows
    of ``data.max_length`` tokens have room for, and one at least. Shorter ones fill that room too, with more answers.
    """
    width, room = run.data.max_length + stage.max_new_tokens, run.train.micro_batch_size * run.data.max_length
    count = min(max(room // width, 1), answers)
    tokens = min(max(room, width), answers * width)
    return Rows(tokens // count, count, min(tokens, answers * stage.max_new_tokens), False)


@dataclass(frozen=True)
class Widths:
    stream: int
    linear: int
    product: int


def widths(run: Run, device: Device) -> Widths:
    """Quantized and trained models have fp32 hidden states, others those of the compute dtype."""
    product = device.precision
    if is_upcast(run):
        return Widths(4, 4, product)
    if uses_deepspeed(run):  # which trains in 16 bits throughout
        return Widths(product, product, product)
    if run.method.name != "lora":
        return Widths(4, product, product)
    return Widths(product, product, product)


def has_dropout(run: Run) -> bool:
    """Only pt and sft have dropout in their adapters: elsewhere the loss compares passes."""
    return run.lora.dropout > 0 and run.stage.name in ("pt", "sft")


def layer_bytes(run: Run, device: Device, rows: Rows) -> float:
    """What the backward of one decoder layer needs [A, T], the terms in the order of the forward."""
    shape, wide, tokens = run.model.architecture, widths(run, device), rows.tokens
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    trains = run.method.name != "lora"
    # Each norm reads fp32, and keeps one number a token; what it gives, where its scale trains, too.
    norm = 4 * shape.hidden_size + 4 + (wide.stream * shape.hidden_size if trains else 0)
    if liger := has_liger(run, device):
        norm = wide.stream * shape.hidden_size + 4
    total = float(tokens * _RESIDUALS * norm)
    # Keys and values of grouped heads are copied for each head under a mask, and on a CPU unless it goes by segments.
    repeats = (rows.is_masked or device.kind == "cpu") and not goes_by_segment(run)
    keys = q if repeats else k
    total += tokens * (wide.product * (q + 2 * keys + q) + 4 * shape.heads)  # q, k, v, what comes out, normalizers
    if shape.qk_norm:
        total += tokens * (wide.linear if liger else 4 + (4 if trains else 0)) * (q + k)
    total += attention_square(run, device, rows)
    total += _feed_forward(run, device, tokens)
    return total + _inputs(run, device, tokens)


def attention_square(run: Run, device: Device, rows: Rows) -> float:
    """What grows with the square of the row: the mask as each call of sdpa makes numbers of it, and under eager the
    weights of the attention, in fp32, rounded, and after dropout [T]."""
    shape, area = run.model.architecture, float(rows.count) * rows.width**2
    if _is_eager(run):
        return area * shape.heads * (4 + 2 * device.precision)
    if rows.is_masked and run.model.attention in ("auto", "sdpa"):
        return area * device.precision
    return 0.0


def _is_eager(run: Run) -> bool:
    return run.model.attention == "eager" or run.model.architecture.family == "gemma2"


def _feed_forward(run: Run, device: Device, tokens: int) -> float:
    """Gate and up, and the gate's activation; without a gate, what goes into the activation. In a mixture of each
    expert that a token passes, with what comes out of it, which is weighed; where experts train, also what goes into
    their two products."""
    shape, wide, inner = run.model.architecture, widths(run, device), run.model.architecture.intermediate_size
    each = ((2 if has_liger(run, device) else 3) if shape.gated_mlp else 1) * wide.linear * inner
    if shape.experts > 1:
        each += wide.stream * shape.hidden_size
        if run.method.name != "lora" or adapts_experts(run):
            each += wide.stream * shape.hidden_size + wide.product * inner
    return float(tokens * each * shape.experts_per_token) + _folded_bytes(run, device)


def _folded_bytes(run: Run, device: Device) -> float:
    """Of a layer's experts with their adapters: PEFT adds the product of an adapter to the weights of all experts, and
    the sum stays for the backward (peft/tuners/lora/layer.py, ``_LoraFactorsProxy``)."""
    is_folded = run.method.name == "lora" and adapts_experts(run)
    return float(device.precision * expert_elements(run.model.architecture)) if is_folded else 0.0


def _inputs(run: Run, device: Device, tokens: int) -> float:
    """What goes into the linear layers, where weights of theirs, or of an adapter on them, train [A, L]."""
    shape, wide = run.model.architecture, widths(run, device)
    every = linears(shape)
    if run.method.name != "lora":
        # q, k and v read the same tensor, as do gate and up; under autocast each has a copy of its own. What comes
        # out of the attention is kept already.
        if wide.stream == wide.product:
            shared = shape.hidden_size * (2 if shape.experts == 1 else 1)
            return float(tokens * wide.product * (shared + (every["down"].inputs if "down" in every else 0)))
        return float(tokens * wide.product * sum(one.inputs for name, one in every.items() if name != "o"))
    chosen, total = adapted(run), 0.0
    # Without dropout, q, k and v read one tensor, as gate and up do; what comes out of the attention is kept already.
    alone = {"down"} | set(list(_in("qkv", chosen))[:1]) | set(list(_in(("gate", "up"), chosen))[:1])
    for name, layer in chosen.items():
        total += wide.product * tokens * run.lora.r
        if has_dropout(run):  # the mask, a byte on a GPU and a number on a CPU, and what is left of the input
            total += tokens * layer.inputs * ((1 if device.kind == "gpu" else 4) + wide.product)
        elif device.precision == 2 or name in alone:  # an adapter reads fp32, of which autocast makes a copy for each
            total += tokens * layer.inputs * wide.product
        if run.lora.variant == "dora":
            total += tokens * layer.outputs * wide.linear
    return total


def _in(names: Iterable[str], chosen: Container[str]) -> Iterator[str]:
    return (name for name in names if name in chosen)


def kept_between_layers(run: Run, device: Device, rows: Rows) -> float:
    """What stands outside of the layers: embeddings, the last norm, rotations, what goes into the head."""
    shape, wide = run.model.architecture, widths(run, device)
    trains = run.method.name != "lora"
    last = 4 * shape.hidden_size + 4 + (wide.stream * shape.hidden_size if trains else 0)
    rotations = 2 * wide.stream * shape.head_dim * rows.tokens
    scored = wide.stream * rows.scored * shape.hidden_size if trains else 0
    return float(rows.tokens * last + rotations + scored)


def checkpoint_bytes(run: Run, device: Device, rows: Rows) -> float:
    """Of one layer under ``train.gradient_checkpointing``: its input."""
    return float(rows.tokens * widths(run, device).stream * run.model.architecture.hidden_size)


def kept_bytes(run: Run, device: Device, rows: Rows) -> float:
    """Of one layer under ``selective`` besides: what the attention gives, with its normalizers, and the products that
    are not computed again (ftlab/model/kept_products.py)."""
    if run.train.gradient_checkpointing != "selective":
        return 0.0
    shape, wide, kept = run.model.architecture, widths(run, device), kept_products(run)
    outputs = sum(one.outputs for one in linears(shape).values() if (one.inputs, one.outputs) in kept)
    total = float(rows.tokens * wide.product * outputs)
    if not _is_eager(run):
        total += rows.tokens * (wide.product * shape.heads * shape.head_dim + 4 * shape.heads)
    return total


def mask_bytes(rows: Rows) -> float:
    """The mask of packed samples, one byte for each pair of places."""
    return float(rows.count) * rows.width**2 if rows.is_masked else 0.0


def logit_bytes(run: Run, device: Device, rows: Rows) -> float:
    """Of the chunk of logits that exists at once, forward and backward: the full logits never do."""
    shape = run.model.architecture
    if isinstance(run.stage, GrpoStage):
        return _tile_bytes(shape, device, rows)
    chunk = _positions_of_chunk(shape)
    at_once = _LOGITS_AT_ONCE + (_LOGITS_IN_16_BITS if device.precision == 2 else 0)
    if isinstance(run.stage, PpoStage):
        at_once = _LOGITS_AND_ENTROPY_AT_ONCE
    return 4.0 * at_once * min(rows.scored, chunk) * shape.vocab_size


def has_chunks(run: Run, rows: Rows) -> bool:
    """Whether the head computes the logits of its positions in several chunks."""
    return rows.scored > _positions_of_chunk(run.model.architecture)


def _positions_of_chunk(shape: Architecture) -> int:
    return max(LOGIT_ELEMENTS // shape.vocab_size, 1)


def _tile_bytes(shape: Architecture, device: Device, rows: Rows) -> float:
    """TRL's: a buffer for a tile of logits, as wide whatever the vocabulary is, and the gradient of the hidden states
    in fp32. Without Triton it scores every position, and works the tile out in tensors of its own
    (trl/kernels/chunked_logprob.py, 1.9)."""
    count = rows.tokens if device.kind == "cpu" else rows.scored
    tile = min(count, _TILE_ROWS)
    working = 4.0 * _TILES_AT_ONCE * tile * min(shape.vocab_size, _TILE_WIDTH) if device.kind == "cpu" else 0.0
    return float(device.precision * tile * _TILE_WIDTH + 4 * count * shape.hidden_size) + working


def backward_bytes(run: Run, device: Device, rows: Rows) -> float:
    """What the backward of one layer works with besides: three gradients of the feed-forward's inner width, less what
    went into its last product, which is gone by then; under adapters of experts the gradient of all their down weights
    (that of gate and up comes when those are gone)."""
    shape, wide = run.model.architecture, widths(run, device)
    inner = shape.intermediate_size * shape.experts_per_token
    outward = 1 / 3 if shape.gated_mlp else 1 / 2
    return float(rows.tokens * wide.linear * 2 * inner) + outward * _folded_bytes(run, device)


def forward_bytes(run: Run, device: Device, rows: Rows) -> float:
    """What one layer's forward works with where nothing is kept for a backward: hidden states in and out, and what is
    larger of attention and feed-forward."""
    shape, wide = run.model.architecture, widths(run, device)
    q, k = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = wide.linear * (3 * q + 2 * k) + wide.product * 2 * q
    inner = shape.intermediate_size * shape.experts_per_token
    return float(rows.tokens * (2 * wide.stream * shape.hidden_size + max(attention, 3 * wide.linear * inner)))


def sampling_bytes(shape: Architecture, sequences: int) -> float:
    """Logits of one place of each sequence, as they are, divided by the temperature, and as probabilities."""
    return 4.0 * 4 * sequences * shape.vocab_size


def scoring_bytes(run: Run, rows: Rows) -> float:
    """Of a chunk of logits that no backward follows, with what its log-probabilities and entropy are made of."""
    chunk = _positions_of_chunk(run.model.architecture)
    return 4.0 * _SCORED_AT_ONCE * min(rows.scored, chunk) * run.model.architecture.vocab_size


def cache_bytes(shape: Architecture, element: int, sequences: int, length: int) -> float:
    """Keys and values of every layer for sequences that are being written: 2 * layers * K for each token
    (https://arxiv.org/abs/2309.06180, section 3)."""
    return 2.0 * shape.layers * shape.kv_heads * shape.head_dim * element * sequences * length
