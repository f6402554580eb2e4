"""From a validated config to a run directory, and on to training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlab.engine.output import quiet_libraries
from ftlab.errors import ConfigError, DataError, Mistake, NotReadyError
from ftlab.planning import make_plan
from ftlab.preflight import check
from ftlab.rundir.directory import RunDir
from ftlab.schema import Run


def train(run: Run, overrides: Sequence[str]) -> None:
    """Start a run, or continue the one that its name or folder holds."""
    quiet_libraries()
    plan = make_plan(run, overrides)
    check.check_plan(plan)
    _execute(RunDir.create(plan), run.run.checkpoint)


def resume(run: Run, overrides: Sequence[str]) -> None:
    """Continue ``run.dir``; everything but where it is comes from its own run.yaml."""
    quiet_libraries()
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "ftlab resume needs the run directory: ftlab resume outputs/my-run")])
    run_dir = RunDir.open(Path(run.run.dir))
    ignored = [o for o in overrides if not o.startswith(("task=", "run.dir=", "-"))]
    if ignored:
        reason = (
            "ftlab resume takes everything from the run's own run.yaml. To change what may change, give its first "
            "command again (rerun in its manifest.json) with this added and the same run.name or run.dir"
        )
        raise ConfigError([Mistake(override, reason) for override in ignored])
    run_dir.choose_the_rest()
    try:
        check.check_plan(run_dir.plan())
    except (DataError, NotReadyError) as error:
        raise type(error)(f"{error}{run_dir.started_elsewhere()}") from None
    _execute(run_dir)


def _execute(run_dir: RunDir, back_to: int | None = None) -> None:
    from ftlab.engine.run import execute

    execute(run_dir, back_to)
