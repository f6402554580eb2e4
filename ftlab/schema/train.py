"""Training, its measures, and what it runs on: train, eval, deepspeed, hardware, tracker."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from ftlab.schema.base import (
    Fraction,
    Group,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    choosing,
    operational,
)

# Names of transformers' OptimizerNames; those that are not here cannot do what a step is in this project.
Optimizer = Literal[
    "adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop",
    "adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit",
    "paged_adamw_32bit", "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit",
    "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit",
    "adamw_torch_4bit", "adamw_torch_8bit", "apollo_adamw", "galore_adafactor", "galore_adamw",
    "grokadamw", "stable_adamw",
]  # fmt: skip


class Train(Group):
    learning_rate: PositiveFloat
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
    ]
    warmup_ratio: Fraction
    warmup_steps: NonNegative | None
    weight_decay: NonNegativeFloat
    max_grad_norm: NonNegativeFloat
    label_smoothing: Fraction
    router_aux_loss_coef: NonNegativeFloat | None
    optimizer: Optimizer
    adam_betas: tuple[Fraction, Fraction]
    epochs: PositiveFloat
    max_steps: Positive | None
    micro_batch_size: Positive
    gradient_accumulation_steps: Positive
    global_batch_size: Positive | None
    gradient_checkpointing: Literal[True, False, "selective"]
    activation_offload: Annotated[bool, operational]
    fp8: Literal["none", "tensorwise", "rowwise", "rowwise_with_gw_hp"]
    compile: Literal["none", "layers"]
    logging_steps: Annotated[Positive, operational]
    save_steps: Annotated[Positive | Literal["epoch"], operational]
    save_total_limit: Annotated[Positive | None, operational]
    loss_spike: Annotated[Annotated[float, Field(gt=1)] | None, operational]
    early_stopping: Positive | None
    keep_best: bool
    best_metric: Annotated[str, Field(min_length=1)]
    on_oom: Annotated[Literal["halve", "stop"], operational]
    engine: Literal["ftlab", "trl"]

    def warmup_count(self, total: int) -> int:
        """Optimizer steps over which the learning rate rises, in a run of ``total`` steps."""
        return math.ceil(total * self.warmup_ratio) if self.warmup_steps is None else self.warmup_steps

    @property
    def keeps_best(self) -> bool:
        """Whether the final weights are the best evaluation's."""
        return self.keep_best or self.early_stopping is not None


class Eval(Group):
    steps: Annotated[Positive, choosing]
    batch_size: Annotated[Positive, operational]
    generate_every: Annotated[Positive | None, choosing]
    max_new_tokens: Annotated[Positive, choosing]
    samples: Annotated[NonNegative, operational]
    golden_rows: Annotated[NonNegative, choosing]
    metrics: Annotated[tuple[str, ...] | None, choosing]

    @property
    def metric_names(self) -> list[str]:
        """What ``metrics`` are called in files; a function of the user's may give several, each NAME_KEY."""
        return [spec.rpartition(":")[2] if ".py:" in spec else spec.replace(":", "_") for spec in self.metrics or ()]

    def measures(self, metric: str) -> bool:
        """Whether answers are measured by a metric of that name."""
        of_users = [name for name, spec in zip(self.metric_names, self.metrics or ()) if ".py:" in spec]
        return metric in self.metric_names or metric.startswith(tuple(f"{name}_" for name in of_users))


class Pilot(Group):
    """What a short run before the whole one is.

    :param full: dotted keys and the values that the whole run has where the pilot has another; None of a run that is
        none.
    """

    steps: Positive | None
    quant: Literal["auto", "same"]
    full: dict[str, Any] | None

    @property
    def is_on(self) -> bool:
        return self.full is not None


class Deepspeed(Group):
    name: Literal["none", "z0", "z1", "z2", "z2_offload", "z3", "z3_offload"]
    stage: Annotated[int, Field(ge=0, le=3)] | None
    offload_optimizer: bool
    offload_parameters: bool


class Hardware(Group):
    name: Annotated[str, operational]
    devices: Annotated[Positive | Literal["auto"], operational]
    nodes: Annotated[Positive, operational]
    memory_gb: Annotated[Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None, operational]
    host_memory_gb: Annotated[Annotated[PositiveFloat, Field(allow_inf_nan=False)] | None, operational]
    compute_capability: Annotated[Annotated[float, Field(gt=0, le=20)] | None, operational]  # 8.9, and not 89
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    fits_by: Annotated[
        tuple[
            Literal[
                "train.micro_batch_size", "train.gradient_checkpointing", "train.activation_offload", "train.optimizer"
            ],
            ...,
        ],
        operational,
    ]
    fsdp: bool
    hang_minutes: Annotated[PositiveFloat | None, operational]


class Tracker(Group):
    name: Literal["tensorboard", "wandb", "mlflow", "none"]
    also: tuple[Literal["tensorboard", "wandb", "mlflow"], ...]
    project: Annotated[str, Field(min_length=1)]

    @property
    def names(self) -> tuple[str, ...]:
        """Every tracker that is asked for, once."""
        return tuple(name for name in dict.fromkeys((self.name, *self.also)) if name != "none")
