"""The base model, and what of it trains: model, method, quant, lora."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import Fraction, Group, NonNegative, Positive, PositiveFloat, StageName, Template


class Architecture(Group):
    """The shape of a decoder, enough to count its parameters and predict its memory without a download."""

    family: str
    layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocab_size: Positive
    max_positions: Positive
    tied_embeddings: bool
    gated_mlp: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    lm_head_bias: bool
    norms_per_layer: Positive
    norm_bias: bool
    qk_norm: Literal[False, True, "whole"]
    attention_sinks: bool
    experts: Positive
    experts_per_token: Positive
    router_bias: bool
    position_embeddings: NonNegative


class RecommendedLora(Group):
    r: Positive
    alpha: Positive
    dropout: Fraction


class Recommended(Group):
    """What suits a model of this size; other groups take their defaults from here."""

    lora: RecommendedLora
    micro_batch_size: Positive
    gradient_accumulation_steps: Positive
    max_length: Positive
    epochs: PositiveFloat
    learning_rate: dict[StageName, PositiveFloat] | None


class Model(Group):
    """:ivar recipe: the choice of the group, where the folder at ``path`` has another shape than it says."""

    name: str
    recipe: str | None
    path: str
    revision: str
    adapter: str | None
    template: Template | None
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
    kernels: Literal["none", "auto", "liger"]
    init: Literal["pretrained", "random"]
    trust_remote_code: bool
    architecture: Architecture
    recommended: Recommended


class Method(Group):
    name: Literal["lora", "full", "freeze"]
    trainable_layers: int | None
    trainable_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None
    train_embeddings: bool
    train_norms: bool


class Quant(Group):
    name: Literal["none", "nf4", "fp4", "int8"]
    double_quantization: bool
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"]


class Lora(Group):
    r: Positive
    alpha: Positive
    dropout: Fraction
    target_modules: Literal["all-linear", "default"] | Annotated[tuple[str, ...], Field(min_length=1)]
    experts: Literal["auto"] | bool
    variant: Literal["lora", "dora", "rslora", "pissa", "loraplus"]
    loraplus_ratio: PositiveFloat | None
