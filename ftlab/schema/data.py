"""Where rows come from, and what becomes of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import Format, Fraction, Group, NonNegative, Positive, PositiveFloat, operational


class Split(Group):
    validation: str
    test: str
    golden: str
    fraction: Fraction
    test_fraction: Fraction


class Golden(Group):
    """What the rows of a golden file are, where they are not as the training rows."""

    format: Format | None
    columns: dict[str, str | None]
    tags: dict[str, str]


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
    share_prompts: Literal[True, False, "auto"]
    reset_positions: bool
    train_on: Literal["assistant", "last", "all", "by_message"]
    special_tokens: Literal["text", "token"]
    on_same_role: Literal["error", "merge"]
    on_invalid: Literal["error", "drop"]
    max_samples: Positive | None
    num_samples: Positive | None
    split: Split
    golden: Golden
    workers: Annotated[Positive | Literal["auto"], operational]
    cache: Annotated[str | None, operational]
