"""Types and bounds of every config key. Values live in ``conf/``; no field here has a default.

Keys marked ``operational`` may differ between the start of a run and its continuation, those marked ``choosing`` where
no evaluation decides which weights are kept; all others are its identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from ftlab.schema.base import (
    CHOOSING,
    OPERATIONAL,
    Format,
    Fraction,
    Group,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Seed,
    StageName,
    Template,
    folder_name,
    operational,
)
from ftlab.schema.data import Data, Golden, Hub, Split
from ftlab.schema.model import Architecture, Lora, Method, Model, Quant, Recommended, RecommendedLora
from ftlab.schema.stages import DpoStage, GrpoStage, KtoStage, OrpoStage, PpoStage, PtStage, RmStage, SftStage, Stage
from ftlab.schema.sweep import SweepKeys
from ftlab.schema.tasks import (
    ChatTask,
    ControlTask,
    DiffTask,
    EnvTask,
    EvaluateTask,
    ExplainTask,
    ImportTask,
    InitTask,
    InspectTask,
    LsTask,
    MineTask,
    PackageTask,
    PlanTask,
    ReportTask,
    ReproduceTask,
    ResumeTask,
    ServeTask,
    Settings,
    SlurmTask,
    Task,
    TaskGroup,
    TrainTask,
    VersionTask,
)
from ftlab.schema.train import Deepspeed, Eval, Hardware, Pilot, Tracker, Train

__all__ = [
    "CHOOSING",
    "OPERATIONAL",
    "Architecture",
    "ChatTask",
    "ControlTask",
    "Data",
    "Deepspeed",
    "DiffTask",
    "DpoStage",
    "EnvTask",
    "Eval",
    "EvaluateTask",
    "ExplainTask",
    "Format",
    "Fraction",
    "Golden",
    "Group",
    "GrpoStage",
    "Hardware",
    "Hub",
    "ImportTask",
    "InitTask",
    "InspectTask",
    "KtoStage",
    "Lora",
    "LsTask",
    "Method",
    "MineTask",
    "Model",
    "NonNegative",
    "NonNegativeFloat",
    "OrpoStage",
    "PackageTask",
    "PhaseEntry",
    "Pilot",
    "PlanTask",
    "Positive",
    "PositiveFloat",
    "PpoStage",
    "PtStage",
    "Quant",
    "Recommended",
    "RecommendedLora",
    "ReportTask",
    "ReproduceTask",
    "ResumeTask",
    "RmStage",
    "Run",
    "RunKeys",
    "Seed",
    "ServeTask",
    "Settings",
    "SftStage",
    "SlurmTask",
    "Split",
    "Stage",
    "StageName",
    "SweepKeys",
    "Task",
    "TaskGroup",
    "Template",
    "Tracker",
    "Train",
    "TrainTask",
    "VersionTask",
    "operational",
]


def _is_a_folder_name(name: str | None) -> str | None:
    return folder_name(name, "outputs/", "run.dir")


def _chooses_something(phases: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if phases == ():
        raise ValueError("chooses no phase, so nothing would run; name some, or leave it out to run all")
    return phases


class RunKeys(Group):
    name: Annotated[str | None, operational, AfterValidator(_is_a_folder_name)]
    dir: Annotated[str | None, operational]
    if_exists: Annotated[Literal["resume", "new", "refuse"], operational]
    phases: Annotated[tuple[str, ...] | None, operational, AfterValidator(_chooses_something)]
    checkpoint: Annotated[Positive | None, operational]


class PhaseEntry(Group):
    """A phase of a curriculum, composed.

    :param source: the phase or run directory whose policy it starts from; None: the model as it is configured.
    :param config: what :class:`Run` has, as plain values.
    """

    name: str
    source: str | None
    start: Literal["continue", "merge"]
    config: dict[str, Any]


class Run(Group):
    """One run, composed and validated."""

    task: Annotated[Task, operational]
    seed: Seed
    run: RunKeys
    sweep: Annotated[SweepKeys, operational]
    model: Model
    method: Method
    quant: Quant
    lora: Lora
    stage: Stage
    data: Data
    train: Train
    eval: Eval
    pilot: Pilot
    phases: tuple[PhaseEntry, ...]
    deepspeed: Deepspeed
    hardware: Hardware
    tracker: Annotated[Tracker, operational]

    def with_values(self, values: Mapping[str, Any]) -> Run:
        """The same with other values at dotted keys of its groups."""
        run = self
        for key, value in values.items():
            group, _, name = key.partition(".")
            run = run.model_copy(update={group: getattr(run, group).model_copy(update={name: value})})
        return run
