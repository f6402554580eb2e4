"""The tasks, each with its keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlab.schema.base import Fraction, Group, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Seed


class TaskGroup(Group):
    words: tuple[str, ...]


class TrainTask(TaskGroup):
    name: Literal["train"]


class ResumeTask(TaskGroup):
    name: Literal["resume"]


class ReproduceTask(TaskGroup):
    name: Literal["reproduce"]
    out: str | None
    force: bool


class ExplainTask(TaskGroup):
    name: Literal["explain"]
    key: str | None
    format: Literal["table", "json"]


class InspectTask(TaskGroup):
    name: Literal["inspect"]
    step: Positive | None
    phase: str | None
    split: Literal["train", "validation", "test", "golden"]
    rows: NonNegative
    check: NonNegative
    full: bool
    html: str | None
    format: Literal["table", "json"]


class InitTask(TaskGroup):
    name: Literal["init"]
    file: str | None
    experiment: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    out: str
    yes: bool
    overwrite: bool
    format: Literal["table", "json"]


class ImportTask(TaskGroup):
    name: Literal["import"]
    file: str | None
    experiment: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    out: str
    skip: tuple[str, ...]
    overwrite: bool
    format: Literal["table", "json"]


class MineTask(TaskGroup):
    name: Literal["mine"]
    repo: str | None
    out: str | None
    revision: Annotated[str, Field(pattern=r"^[^-]")]
    max_commits: Positive | None
    max_file_kb: Positive
    max_diff_kb: Positive
    max_line: Positive
    encoding: str | None
    exclude: tuple[str, ...]
    series: Literal["auto", "always", "never"]
    series_hours: PositiveFloat
    series_commits: Annotated[int, Field(ge=2)]
    validation: Fraction
    overwrite: bool
    format: Literal["table", "json"]


class LsTask(TaskGroup):
    name: Literal["ls"]
    folder: str
    sort: str | None
    status: (
        Literal[
            "running",
            "finished",
            "stopped",
            "paused",
            "interrupted",
            "failed",
            "killed",
            "new",
            "unreadable",
            "waiting",
        ]
        | None
    )
    format: Literal["table", "json"]
    limit: Positive | None


class ReportTask(TaskGroup):
    name: Literal["report"]
    runs: tuple[str, ...]
    out: str | None
    objective: str | None
    smoothing: Fraction


class SlurmTask(TaskGroup):
    name: Literal["slurm"]
    action: Literal["status", "cancel"]
    format: Literal["table", "json"]


class ControlTask(TaskGroup):
    name: Literal["control"]
    verb: Literal["list", "pause", "resume", "stop", "set", "clone"]
    job: Positive | None
    changes: tuple[str, ...]
    schedule: Literal["continue", "restart"]
    weights: Literal["parent", "scratch"]
    wait: NonNegativeFloat
    format: Literal["table", "json"]


class DiffTask(TaskGroup):
    name: Literal["diff"]
    first: str | None
    second: str | None
    format: Literal["table", "json"]
    tolerance: NonNegativeFloat


class PlanTask(TaskGroup):
    name: Literal["plan"]
    solve: Literal["data.max_length", "train.micro_batch_size", "lora.r"] | None
    format: Literal["table", "json"]


class EvaluateTask(TaskGroup):
    name: Literal["evaluate"]
    split: Literal["auto", "train", "validation", "test", "golden"]
    phase: str | None
    compare: str | tuple[str, ...] | None
    limit: Positive | None
    temperature: NonNegativeFloat
    too_long: Literal["error", "skip"]
    generate: bool
    reward_model: str | None
    suite: Literal["multiple_choice", "lm_eval"] | None
    tasks: tuple[str, ...]
    few_shot: NonNegative | None
    few_shot_file: str | None
    out: str | None
    format: Literal["table", "json"]

    @property
    def others(self) -> tuple[str, ...]:
        """What the run is compared with: ``base``, or run directories."""
        return (self.compare,) if isinstance(self.compare, str) else self.compare or ()


class PackageTask(TaskGroup):
    name: Literal["package"]
    format: Literal["auto", "peft", "hf", "gguf", "table", "json"]
    merge: bool | None
    dtype: Literal["auto", "fp32", "bf16", "fp16", "q8_0"]
    shard_size: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}(KB|MB|GB)$")]
    phase: str | None
    output: str | None
    overwrite: bool
    check: bool
    llama_cpp: str | None
    license: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    push: bool
    repo: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)?$")]
    private: bool
    file: str | None
    load: bool
    base: str | None


class Answering(Group):
    """How a model answers: what a command takes for all of its answers."""

    max_new_tokens: Positive
    temperature: NonNegativeFloat
    top_k: Positive | None
    top_p: Annotated[float, Field(gt=0, le=1)]
    repetition_penalty: PositiveFloat


class Settings(Answering):
    """The same with the seed of drawn answers: what ``/set`` changes."""

    seed: Seed


class ChatTask(TaskGroup, Answering):
    name: Literal["chat"]
    runs: tuple[str, ...]
    phase: str | None
    compare: Literal["base"] | None
    system: str | None
    load: str | None
    history: str | None
    format: Literal["text", "json"]


class ServeTask(TaskGroup, Answering):
    name: Literal["serve"]
    runs: tuple[str, ...]
    phase: str | None
    compare: Literal["base"] | None
    engine: Literal["auto", "vllm", "transformers"]
    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535)]
    page: bool
    dry_run: bool


class EnvTask(TaskGroup):
    name: Literal["env"]
    format: Literal["text", "json"]


class VersionTask(TaskGroup):
    name: Literal["version"]


Task = Annotated[
    TrainTask
    | ResumeTask
    | ReproduceTask
    | InspectTask
    | InitTask
    | ImportTask
    | MineTask
    | ExplainTask
    | LsTask
    | ReportTask
    | SlurmTask
    | ControlTask
    | DiffTask
    | PlanTask
    | EvaluateTask
    | PackageTask
    | ChatTask
    | ServeTask
    | EnvTask
    | VersionTask,
    Field(discriminator="name"),
]
