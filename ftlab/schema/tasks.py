"""The tasks, each with its keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import (
    Group,
    NonNegative,
)


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
