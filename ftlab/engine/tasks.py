"""From a validated config to a run directory, and on to training."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ftlab.base import machine
from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo
from ftlab.distributed.sharding import needs_launch
from ftlab.distributed.world import planned_nodes
from ftlab.engine.hooks import PhaseHooks
from ftlab.errors import ConfigError, DataError, Mistake, NotReadyError
from ftlab.preflight import check as preflight
from ftlab.preflight import fit
from ftlab.preflight.choices import make_fitting_plan
from ftlab.rundir.claim import choose_remaining_phases, claim, hold, lengthen
from ftlab.rundir.control import ControlJournal
from ftlab.rundir.directory import RunDir
from ftlab.rundir.extension import LENGTH
from ftlab.rundir.start_folder import in_start_folder
from ftlab.schema import Run


def train(run: Run, overrides: Sequence[str], hooks: PhaseHooks | None = None) -> None:
    """Start a run, or continue the one that its name or folder holds."""
    started = _beginning()
    quiet_libraries()
    plan = make_fitting_plan(run, overrides)
    preflight.check_plan(plan)
    fit.check_fits(plan)
    with claim(plan) as run_dir:
        _execute(run_dir, run.run.checkpoint, hooks, started)


def prepare(run: Run, overrides: Sequence[str], is_here: bool = False) -> RunDir:
    """Check a run that is trained later, and make its directory, or find the one that it continues.

    :param is_here: whether this machine trains it; else what devices and packages there are is the other's to check.
    """
    plan = make_fitting_plan(run, overrides)
    preflight.check_plan(plan, is_here)
    fit.check_fits(plan, is_here)
    with claim(plan) as run_dir:
        return run_dir


def resume(run: Run, overrides: Sequence[str], hooks: PhaseHooks | None = None) -> None:
    """Continue ``run.dir``; everything but where it is, and how many steps it takes, comes from its own run.yaml.

    Relative paths start where they did, whatever the current folder is.
    """
    started = _beginning()
    quiet_libraries()
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "ftlab resume needs the run directory: ftlab resume outputs/my-run")])
    run_dir = RunDir.open(Path(run.run.dir).expanduser())
    lengths = [o for o in overrides if o.partition("=")[0] in LENGTH]
    ignored = [o for o in overrides if not o.startswith(("task=", "run.dir=", "-")) and o not in lengths]
    if ignored:
        reason = (
            "ftlab resume takes everything from the run's own run.yaml. To change what may change, give its first "
            "command again (rerun in its manifest.json) with this added and the same run.name or run.dir; for more "
            "steps, ftlab resume DIR train.max_steps=N"
        )
        raise ConfigError([Mistake(override, reason) for override in ignored])
    with in_start_folder(run_dir) as (run_dir, remark), hold(run_dir):
        if remark is not None:
            echo(remark)
        if lengths:
            lengthen(run_dir, run.train, lengths)
        choose_remaining_phases(run_dir)
        if (journal := ControlJournal(run_dir.path)).state() is not None:
            journal.append("resume")
        try:
            preflight.check_plan(run_dir.plan())
        except (DataError, NotReadyError) as error:
            raise type(error)(f"{error}{run_dir.start_folder_hint()}") from None
        _execute(run_dir, None, hooks, started)


def _beginning() -> float:
    """When the command began. Later runs of a process, as in a sweep, each begin here; by then torch is there."""
    return time.monotonic() - (0.0 if "torch" in sys.modules else machine.process_age())


def _execute(run_dir: RunDir, checkpoint: int | None, hooks: PhaseHooks | None, started: float) -> None:
    """:raises NotReadyError: it is planned for several machines; it is told how it is started on them."""
    from ftlab.engine.run import execute, phases_to_run  # which import transformers

    configs = [phase.config for phase in phases_to_run(run_dir)]
    if (count := max((planned_nodes(config.hardware) for config in configs), default=1)) > 1:
        path = shlex.quote(str(run_dir.path))
        raise NotReadyError(
            f"{run_dir.path} is ready. It is planned for {count} machines (hardware.nodes), and is started on each of "
            f"them, with its number N from 0 to {count - 1} and the address of the first:\n"
            f"  python -m ftlab.engine.launch {path} --node-rank=N --master-addr=HOST\n"
            "On a Slurm cluster, hydra/launcher=slurm before the same words does that."
        )
    if any(map(needs_launch, configs)):
        from ftlab.engine.launch import launch

        launch(run_dir, checkpoint, started)
    else:
        execute(run_dir, checkpoint, hooks, started)
