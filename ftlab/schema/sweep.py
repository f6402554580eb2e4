"""What a sweep is called, and what its jobs are compared by: sweep. No run depends on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ftlab.schema.base import Group, folder_name

Direction = Literal["minimize", "maximize"]


def _names_a_measure(objective: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    if objective == ():
        raise ValueError("names no measure; name one or several, or leave it out")
    return objective


def _is_a_folder_name(name: str | None) -> str | None:
    return folder_name(name, "multirun/", "hydra.sweep.dir")


class SweepKeys(Group):
    name: Annotated[str | None, AfterValidator(_is_a_folder_name)]
    objective: Annotated[
        Annotated[str, Field(min_length=1)] | tuple[Annotated[str, Field(min_length=1)], ...] | None,
        AfterValidator(_names_a_measure),
    ]
    direction: Direction | tuple[Direction, ...] | None
