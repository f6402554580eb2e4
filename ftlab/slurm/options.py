"""The keys of ``hydra.launcher`` under ``hydra/launcher=slurm``; their defaults are in its YAML."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from ftlab.schema.base import Group

TARGET = "hydra_plugins.ftlab_launchers.slurm.SlurmLauncher"
# Those that sbatch has no option for, or that this package treats itself.
_OURS = {
    "nodes", "tasks_per_node", "gpus_per_node", "template", "submitit_folder", "dry_run", "python", "max_num_timeout",
    "setup", "additional_parameters", "configs_per_job", "shards", "resident",
}  # fmt: skip


class Options(Group):
    """What a user asks of Slurm. Times in minutes or seconds, memory in GB, as the names say.

    :param configs_per_job: configs of a sweep that one job trains in turns; None: each has its own. :param shards,
        resident: of those turns, as :class:`ftlab.schema.launchers.Shards` has them.
    """

    name: str
    partition: str | None
    qos: str | None
    account: str | None
    timeout_min: PositiveInt
    nodes: PositiveInt | None
    tasks_per_node: PositiveInt
    cpus_per_task: PositiveInt | None
    cpus_per_gpu: PositiveInt | None
    gpus_per_node: NonNegativeInt | None
    gpus_per_task: PositiveInt | None
    gres: str | None
    mem_gb: PositiveFloat | None
    mem_per_gpu: str | None
    mem_per_cpu: str | None
    constraint: str | None
    exclude: str | None
    nodelist: str | None
    exclusive: bool | str | None
    dependency: str | None
    comment: str | None
    mail_type: str | None
    mail_user: str | None
    wckey: str | None
    array_parallelism: PositiveInt
    configs_per_job: PositiveInt | None
    shards: PositiveInt | None
    resident: PositiveInt | None
    signal_delay_s: NonNegativeInt
    max_num_timeout: NonNegativeInt
    setup: tuple[str, ...] | None
    srun_args: tuple[str, ...] | None
    use_srun: bool
    additional_parameters: dict[str, Any]
    stderr_to_stdout: bool
    python: str | None
    template: str | None
    submitit_folder: str | None
    dry_run: bool

    def for_submitit(self) -> dict[str, Any]:
        """What submitit passes on to sbatch, under the names that all its executors share; what is null is left out."""
        given = self.model_dump(exclude=_OURS)
        kept = {
            key: list(value) if isinstance(value, tuple) else value for key, value in given.items() if value is not None
        }
        return {**kept, "wckey": self.wckey}  # else submitit has one of its own
