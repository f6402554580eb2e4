"""Training, its measures, and what it runs on: train, eval, deepspeed, hardware, tracker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import (
    Fraction,
    Group,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    operational,
)


class Train(Group):
    learning_rate: PositiveFloat
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ]
    warmup_ratio: Fraction
    weight_decay: NonNegativeFloat
    max_grad_norm: NonNegativeFloat
    optimizer: Literal[
        "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit", "adafactor",
        "lion_8bit", "sgd",
    ]  # fmt: skip
    adam_betas: tuple[Fraction, Fraction]
    epochs: PositiveFloat
    max_steps: Positive | None
    micro_batch_size: Positive
    gradient_accumulation_steps: Positive
    global_batch_size: Positive | None
    gradient_checkpointing: bool
    logging_steps: Annotated[Positive, operational]
    save_steps: Annotated[Positive, operational]
    save_total_limit: Annotated[Positive | None, operational]
    early_stopping: Positive | None
    on_oom: Annotated[Literal["stop", "halve"], operational]
    engine: Literal["ftlab", "trl"]


class Eval(Group):
    steps: Annotated[Positive, operational]
    batch_size: Annotated[Positive, operational]
    generate_every: Annotated[Positive | None, operational]
    max_new_tokens: Annotated[Positive, operational]
    samples: Annotated[NonNegative, operational]
    golden_rows: Annotated[NonNegative, operational]


class Deepspeed(Group):
    name: Literal["none", "z0", "z1", "z2", "z2_offload", "z3", "z3_offload"]
    stage: Annotated[int, Field(ge=0, le=3)] | None
    offload_optimizer: bool
    offload_parameters: bool


class Hardware(Group):
    name: Annotated[str, operational]
    devices: Annotated[Positive | Literal["auto"], operational]
    nodes: Annotated[Positive, operational]
    memory_gb: Annotated[PositiveFloat | None, operational]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    fsdp: bool


class Tracker(Group):
    name: Literal["tensorboard", "wandb", "mlflow", "none"]
    project: str
