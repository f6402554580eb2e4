"""``ftlab package RUN``: packs, checks, writes. ``ftlab package verify FILE``: checks what came from elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftlab.base.libraries import quiet_libraries
from ftlab.base.paths import shown_path
from ftlab.base.progress import stderr_bar
from ftlab.base.terminal import echo, echo_json
from ftlab.errors import ConfigError, Mistake, NotReadyError, OutOfMemoryError
from ftlab.policy.given import Given
from ftlab.rundir.start_folder import started_from
from ftlab.schema import PackageTask, Run

if TYPE_CHECKING:
    from ftlab.policy.from_run import Policy
    from ftlab.use.package.llama_cpp import Build

VERIFY = "verify"
_NEEDS_RUN = "ftlab package needs a run directory: ftlab package outputs/my-run"
_NEEDS_FILE = "needs an archive: ftlab package verify my-model.tar.gz"


def package(run: Run, overrides: Sequence[str]) -> None:
    """Make a package of a run, or verify one.

    :raises ConfigError: no run or file is named, or keys that do not go together. :raises RunDirError: it is no run, or
        has no weights. :raises NotReadyError: a model or a package is missing.
    :raises PackageError: what was packed does not do what the run does; or the file is no package, or damaged.
    """
    task = run.task
    assert isinstance(task, PackageTask)
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", _NEEDS_RUN)])
    quiet_libraries()
    if run.run.dir == VERIFY:
        _verify(task)
        return
    from ftlab.use.package.choice import task_mistakes
    from ftlab.use.package.llama_cpp import find_build

    given = Given.read(run, overrides, ("hardware",), ())
    if wrong := task_mistakes(task):
        raise ConfigError(wrong)
    output = None if task.output is None else Path(task.output).expanduser().absolute()
    llama_cpp = find_build(task.llama_cpp) if task.format == "gguf" and task.check else None
    with warnings.catch_warnings(action="ignore"):  # of libraries, to whoever calls them
        _pack(task, given, Path(run.run.dir).expanduser(), run.run.checkpoint, output, llama_cpp)


def _pack(
    task: PackageTask, given: Given, folder: Path, step: int | None, output: Path | None, llama_cpp: Build | None
) -> None:
    from ftlab.policy.from_run import find_policy
    from ftlab.preflight.reachable import check_base
    from ftlab.stages.trainer.out_of_memory import is_out_of_memory
    from ftlab.use.package.build import build
    from ftlab.use.package.choice import choose
    from ftlab.use.package.table import outcome_table

    with started_from(folder) as named:
        policy = find_policy(named, task.phase, step, given.merged)
        if policy.weights.remark is not None:
            echo(policy.weights.remark)
        _check_unchanged(policy)
        check_base(policy.config)
        try:
            made = build(choose(policy, task), output, llama_cpp, stderr_bar)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                "Out of memory. Whole weights take 4 bytes for each parameter while they are made; format=peft packs "
                "an adapter alone, and check=false loads nothing to compare."
            ) from None
    for line in outcome_table(made.outcomes):
        echo(line)
    echo(f"written to {shown_path(made.file)} ({made.file.stat().st_size:,} bytes)")
    if made.address is not None:
        echo(f"pushed to {made.address}{' (private)' if task.private else ''}")


def _check_unchanged(policy: Policy) -> None:
    """:raises NotReadyError: final weights are no longer those that the run ended with."""
    from ftlab.rundir.sources import changed_weights

    weights, done = policy.weights, policy.run_dir.manifest().get("phases", {})
    if weights.step is not None or weights.phase.name not in done:
        return
    if wrong := changed_weights(policy.run_dir, weights.phase, done[weights.phase.name]):
        raise NotReadyError(f"{wrong[0]}. A package is of what was trained: put a copy back.")


def _verify(task: PackageTask) -> None:
    from ftlab.use.package.table import verified_lines
    from ftlab.use.package.verify import verify

    if task.file is None:
        raise ConfigError([Mistake("task.file", _NEEDS_FILE)])
    if task.format not in ("auto", "table", "json"):
        raise ConfigError([Mistake("task.format", "verify prints a table or json", task.format)])
    found = verify(Path(task.file).expanduser(), stderr_bar)
    values = found.values
    outcomes = []
    if task.load:
        from ftlab.use.package.again import answers_again

        outcomes = answers_again(found, task.base, stderr_bar)
        values["check"] = [{"name": one.name, "found": one.found} for one in outcomes]
    if task.format == "json":
        echo_json(values)
        return
    for line in verified_lines(found, outcomes):
        echo(line)
