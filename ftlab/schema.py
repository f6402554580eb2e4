"""Types and bounds of every config key. Values live in ``conf/``; no field here has a default.

Keys marked ``Operational`` may differ between the start of a run and its continuation; all others are its identity.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

OPERATIONAL = "operational"
_operational = Field(json_schema_extra={OPERATIONAL: True})

Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

StageName = Literal["pt", "sft", "rm", "ppo", "dpo", "kto", "orpo", "grpo"]
Format = Literal[
    "alpaca", "sharegpt", "messages", "instruction", "prompt_completion", "preference", "kto", "prompts", "text"
]
Template = Literal[
    "alpaca", "baichuan", "chatglm3", "chatml", "codeqwen", "deepseek", "deepseek_coder", "deepseek_r1", "falcon",
    "gemma", "gemma3", "internlm2", "llama2", "llama3", "llama3_1", "mistral", "mistral_nemo", "mixtral", "phi3",
    "phi4", "plain", "qwen", "qwen3", "qwen3_nothink", "starcoder2", "vicuna", "yi", "yi_1_5", "zephyr",
]  # fmt: skip


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TaskGroup(Group):
    words: tuple[str, ...]


class TrainTask(TaskGroup):
    name: Literal["train"]


class ResumeTask(TaskGroup):
    name: Literal["resume"]


class ExplainTask(TaskGroup):
    name: Literal["explain"]
    key: str | None


class InspectTask(TaskGroup):
    name: Literal["inspect"]
    split: Literal["train", "validation", "test", "golden"]
    rows: NonNegative
    check: NonNegative
    full: bool
    html: str | None


class InitTask(TaskGroup):
    name: Literal["init"]
    file: str | None
    experiment: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    out: str
    yes: bool
    overwrite: bool


class EnvTask(TaskGroup):
    name: Literal["env"]
    format: Literal["text", "json"]


class VersionTask(TaskGroup):
    name: Literal["version"]


Task = Annotated[
    TrainTask | ResumeTask | InspectTask | InitTask | ExplainTask | EnvTask | VersionTask,
    Field(discriminator="name"),
]


class RunKeys(Group):
    name: Annotated[str | None, _operational, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    dir: Annotated[str | None, _operational]
    if_exists: Annotated[Literal["resume", "new", "refuse"], _operational]
    phases: Annotated[tuple[str, ...] | None, _operational]
    checkpoint: Annotated[Positive | None, _operational]


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
    qk_norm: bool
    experts: Positive
    experts_per_token: Positive
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
    name: str
    path: str
    revision: str
    adapter: str | None
    template: Template | None
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
    init: Literal["pretrained", "random"]
    trust_remote_code: bool
    architecture: Architecture
    recommended: Recommended


class Method(Group):
    name: Literal["lora", "full", "freeze"]
    trainable_layers: int | None


class Quant(Group):
    name: Literal["none", "nf4", "fp4", "int8"]
    double_quantization: bool
    compute_dtype: Literal["auto", "fp32", "bf16", "fp16"]


class Lora(Group):
    r: Positive
    alpha: Positive
    dropout: Fraction
    target_modules: Literal["all-linear", "default"] | Annotated[tuple[str, ...], Field(min_length=1)]
    variant: Literal["lora", "dora", "rslora", "pissa", "loraplus"]
    loraplus_ratio: PositiveFloat | None


class PtStage(Group):
    name: Literal["pt"]


class SftStage(Group):
    name: Literal["sft"]
    neftune_alpha: PositiveFloat | None


class RmStage(Group):
    name: Literal["rm"]
    margin: NonNegativeFloat


class DpoStage(Group):
    name: Literal["dpo"]
    beta: PositiveFloat
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "exo", "nca", "simpo", "cpo"]
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    sft_weight: NonNegativeFloat
    simpo_gamma: NonNegativeFloat
    reference_model: str | None


class KtoStage(Group):
    name: Literal["kto"]
    beta: PositiveFloat
    desirable_weight: PositiveFloat
    undesirable_weight: PositiveFloat


class OrpoStage(Group):
    name: Literal["orpo"]
    beta: PositiveFloat


class PpoStage(Group):
    name: Literal["ppo"]
    reward_model: str | None
    rewards: tuple[str, ...]
    rollout_batch_size: Positive
    ppo_epochs: Positive
    mini_batch_size: Positive
    clip_range: PositiveFloat
    value_clip_range: PositiveFloat
    value_coefficient: NonNegativeFloat
    entropy_coefficient: NonNegativeFloat
    gamma: Annotated[float, Field(gt=0, le=1)]
    gae_lambda: Annotated[float, Field(ge=0, le=1)]
    kl_coefficient: NonNegativeFloat
    kl_target: PositiveFloat | None
    early_stop_kl: PositiveFloat | None
    temperature: PositiveFloat
    max_new_tokens: Positive


class GrpoStage(Group):
    name: Literal["grpo"]
    rewards: Annotated[tuple[str, ...], Field(min_length=1)]
    reward_weights: tuple[float, ...] | None
    on_reward_error: Literal["stop", "skip"]
    num_generations: Annotated[int, Field(ge=2)]
    beta: NonNegativeFloat
    epsilon: PositiveFloat
    num_iterations: Positive
    steps_per_generation: Positive | None
    temperature: PositiveFloat
    max_new_tokens: Positive
    vllm: bool


Stage = Annotated[
    PtStage | SftStage | RmStage | DpoStage | KtoStage | OrpoStage | PpoStage | GrpoStage,
    Field(discriminator="name"),
]


class Split(Group):
    validation: str
    test: str
    golden: str
    fraction: Fraction
    test_fraction: Fraction


class Hub(Group):
    """Which part of a data set on a hub."""

    revision: str | None
    subset: str | None
    split: str | None
    streaming: bool


class Data(Group):
    name: str | Annotated[tuple[str, ...], Field(min_length=1)] | None
    path: str | None
    format: Format | None
    columns: dict[str, str | None]
    tags: dict[str, str]
    registry: str
    hub: Hub
    mix: Literal["concat", "interleave_under", "interleave_over"]
    probabilities: tuple[PositiveFloat, ...] | None
    max_length: Annotated[int, Field(ge=8)]
    overlap: NonNegative
    truncation: Literal["drop", "left", "right", "turns", "error"]
    packing: Literal[True, False, "wrapped"]
    reset_positions: bool
    train_on: Literal["assistant", "last", "all", "by_message"]
    on_invalid: Literal["error", "drop"]
    max_samples: Positive | None
    num_samples: Positive | None
    split: Split
    workers: Annotated[Positive | Literal["auto"], _operational]
    cache: Annotated[str | None, _operational]


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
    logging_steps: Annotated[Positive, _operational]
    save_steps: Annotated[Positive, _operational]
    save_total_limit: Annotated[Positive | None, _operational]
    early_stopping: Positive | None
    on_oom: Annotated[Literal["stop", "halve"], _operational]
    engine: Literal["ftlab", "trl"]


class Eval(Group):
    steps: Annotated[Positive, _operational]
    batch_size: Annotated[Positive, _operational]
    generate_every: Annotated[Positive | None, _operational]
    max_new_tokens: Annotated[Positive, _operational]
    samples: Annotated[NonNegative, _operational]
    golden_rows: Annotated[NonNegative, _operational]


class Deepspeed(Group):
    name: Literal["none", "z0", "z1", "z2", "z2_offload", "z3", "z3_offload"]
    stage: Annotated[int, Field(ge=0, le=3)] | None
    offload_optimizer: bool
    offload_parameters: bool


class Hardware(Group):
    name: Annotated[str, _operational]
    devices: Annotated[Positive | Literal["auto"], _operational]
    nodes: Annotated[Positive, _operational]
    memory_gb: Annotated[PositiveFloat | None, _operational]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    fsdp: bool


class Tracker(Group):
    name: Literal["tensorboard", "wandb", "mlflow", "none"]
    project: str


class PhaseEntry(Group):
    """A phase of a curriculum: a name, and overrides spelled as on the command line."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]


class Run(Group):
    """One run, composed and validated."""

    task: Annotated[Task, _operational]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    run: RunKeys
    model: Model
    method: Method
    quant: Quant
    lora: Lora
    stage: Stage
    data: Data
    train: Train
    eval: Eval
    phases: tuple[PhaseEntry, ...]
    deepspeed: Deepspeed
    hardware: Hardware
    tracker: Annotated[Tracker, _operational]
