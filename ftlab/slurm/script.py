"""The batch script of one or several runs that want the same of a cluster. submitit writes it; what is here is what it
starts: a run directory, and what becomes of a job that was told to stop."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.slurm.options import Options

PLACEHOLDER = "@COMMAND@"
# What srun ends with when its run was told to stop: EX_TEMPFAIL where it has saved, 128 and the signal where it had not
# yet begun to listen. INT is a person's, and no reason to begin again.
_STOPPED = "75|138|140|143"  # EX_TEMPFAIL, USR1, USR2, TERM
_END = 'exit "$code"'
# A number that Slurm gives again after it was set up anew may have left files; what failed in an earlier start of this
# job stays known.
_FORGET = ('rm -f "$files.exit"', '[ "${SLURM_RESTART_COUNT:-0}" != 0 ] || rm -rf "$files.failures"')


@dataclass(frozen=True)
class Resources:
    """What a run asks of a cluster. :param gpus_per_node: None leaves it to the cluster. :param module: what a task
    runs with a run directory."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int | None
    module: str


@dataclass(frozen=True)
class Batch:
    """Runs that are submitted together, as one job or one job array.

    :param runs: their directories. :param per_job: how many of them a job has; the last may have fewer.
    :param command: words of shell that start a job's work on a node, followed by its run directories; ``$files`` begins
        the names of the job's own files.
    :param start_folder: that relative paths start from. :param folder: of scripts, logs and exit codes.
    """

    runs: tuple[Path, ...]
    resources: Resources
    command: tuple[str, ...]
    start_folder: Path
    folder: Path
    per_job: int = 1

    @property
    def jobs(self) -> list[tuple[Path, ...]]:
        """The runs of each job."""
        return [self.runs[first : first + self.per_job] for first in range(0, len(self.runs), self.per_job)]

    @property
    def is_array(self) -> bool:
        return len(self.jobs) > 1


def check_submitit() -> None:
    """:raises NotReadyError: the package is not installed."""
    if find_spec("submitit") is None:
        raise NotReadyError("hydra/launcher=slurm needs the package submitit: pip install 'ftlab[slurm]'")


def script(options: Options, batch: Batch) -> str:
    """The whole script. :raises ConfigError: the user's template cannot be read or filled in."""
    lines = _submitit_lines(options, batch)
    if options.template is None:
        return "\n".join(["#!/bin/bash", *lines.directives, *lines.commands, _END, ""])
    return _filled(options.template, _template(options.template), lines)


@dataclass(frozen=True)
class _Lines:
    directives: list[str]
    commands: list[str]


def _submitit_lines(options: Options, batch: Batch) -> _Lines:
    from submitit.slurm.slurm import SlurmExecutor

    class Executor(SlurmExecutor):
        """Writes scripts where no Slurm is, too."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Executor(batch.folder)
    resources = batch.resources
    given = {"nodes": resources.nodes, "tasks_per_node": resources.tasks_per_node, **options.for_submitit()}
    if resources.gpus_per_node is not None:
        given["gpus_per_node"] = resources.gpus_per_node
    further: dict[str, Any] = {"chdir": str(batch.start_folder), "requeue": True, **options.additional_parameters}
    given = executor._convert_parameters(given)
    executor.update_parameters(
        **given, additional_parameters=further, setup=_before(options, batch), teardown=_after(options, batch)
    )
    if batch.is_array:
        executor.parameters["map_count"] = len(batch.jobs)
    # set -e of a setup must not end the script before it is known how the run did.
    text = executor._make_submission_file_text(f'{" ".join(batch.command)} "${{runs[@]}}" || code=$?', "")
    lines = text.splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    return _Lines(directives, lines[lines.index(directives[-1]) + 1 :])


def _before(options: Options, batch: Batch) -> list[str]:
    """Which runs this job has, under which name it is known, and the user's own lines."""
    which = [f"runs=({' '.join(shlex.quote(str(run)) for run in batch.runs)})"]
    if batch.is_array:
        which.append(f'runs=("${{runs[@]:SLURM_ARRAY_TASK_ID * {batch.per_job}:{batch.per_job}}}")')
    name = 'job="${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
    files = f'{shlex.quote(str(batch.folder))}/"$job"'
    return [*which, name, f"files={files}", *_FORGET, "code=0", *(options.setup or ())]


def _after(options: Options, batch: Batch) -> list[str]:
    """Queue a run again that was told to stop, until that has happened too often; write down how others ended."""
    return [
        f'case "$code" in {_STOPPED})',
        '  echo "$code" >> "$files.stops"',
        f'  if [ "$(wc -l < "$files.stops")" -le {options.max_num_timeout} ]; then',
        '    scontrol requeue "$SLURM_JOB_ID" && exit 0',
        "  fi ;;",
        "esac",
        'echo "$code" > "$files.exit"',
    ]


def _template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError([Mistake("hydra.launcher.template", f"cannot be read: {reason}", path)]) from None


def check_template(path: str) -> None:
    """:raises ConfigError: it cannot be read, or has no line of its own for the run."""
    if PLACEHOLDER not in [line.strip() for line in _template(path).splitlines()]:
        reason = f"has no line {PLACEHOLDER}, where the run starts. Put one where the script called its program"
        raise ConfigError([Mistake("hydra.launcher.template", reason, path)])


def _filled(path: str, template: str, lines: _Lines) -> str:
    """The template with our options after its first line, so that its own, which come later, win."""
    check_template(path)
    first, *rest = template.splitlines()
    if not first.startswith("#!"):
        first, rest = "#!/bin/bash", [first, *rest]
    filled = [line for one in rest for line in (lines.commands if one.strip() == PLACEHOLDER else [one])]
    return "\n".join([first, *lines.directives, *filled, _END, ""])
