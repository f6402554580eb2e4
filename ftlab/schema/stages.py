"""The stages, each with what only it has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import Group, NonNegativeFloat, Positive, PositiveFloat


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
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "exo", "nca", "apo_zero", "simpo", "cpo"]
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
    reward_weights: tuple[float, ...] | None
    on_reward_error: Literal["stop", "skip"]
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
