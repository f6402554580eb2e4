"""One process of a run: ``python -m ftlab.engine.worker RUN_DIR``.

It takes everything from the run directory; which of the processes it is, the variables of torchrun say. Started by
:mod:`ftlab.engine.launch`, or by hand: ``torchrun --nproc-per-node 2 -m ftlab.engine.worker RUN_DIR``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

from ftlab.base import machine
from ftlab.base.heap import collect_seldom
from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo_error
from ftlab.distributed.failures import describe_missing, misses_another, record_failure
from ftlab.distributed.ranks import Ranks, join_ranks
from ftlab.distributed.world import ALONE, current_world, planned_devices, take_slurm_variables
from ftlab.engine.hooks import PhaseHooks
from ftlab.engine.process import die_with_parent
from ftlab.errors import FtlabError, Interrupted, NotReadyError, first_line
from ftlab.rundir.claim import hold
from ftlab.rundir.directory import RunDir
from ftlab.rundir.start_folder import in_start_folder

_PATIENCE = 20.0  # seconds that a process which was told to stop waits for the others


def main(hooks: PhaseHooks | None = None) -> int:
    """:param hooks: are told of what happens meanwhile. :returns: the exit code."""
    given = _parser().parse_args()
    die_with_parent()
    collect_seldom()
    quiet_libraries()
    logging.getLogger().addHandler(logging.NullHandler())  # without any, Python prints what libraries warn of
    terminal = 2
    ranks: Ranks | None = None
    try:
        take_slurm_variables()
        world = current_world()
        with in_start_folder(RunDir.open(given.run_dir)) as (run_dir, _):
            if not world.is_first:
                terminal = _print_to(run_dir.rank_log(world.rank))
            _check_world(run_dir, given.phase)
            ranks = join_ranks()
            ranks.fail = lambda error: _fail(error, given.errors, terminal)
            _run(run_dir, given, ranks, hooks)
        ranks.close()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted("Interrupted before anything was begun.")
        if ranks is not None and isinstance(error, Interrupted):
            ranks.meet(_PATIENCE)  # whoever ends first takes the others with it, and one of them may be writing still
        _tell(error, given.errors, terminal)
        _leave(error.exit_code if isinstance(error, FtlabError) else 1)
    return 0


def _check_world(run_dir: RunDir, chosen: str | None) -> None:
    """:raises NotReadyError: as many processes are not here as a phase is planned for."""
    plan, size = run_dir.plan(), current_world().size
    for phase in plan.phases:
        planned = planned_devices(phase.config.hardware)
        if chosen in (None, phase.name) and planned != size:
            raise NotReadyError(
                f"{run_dir.path} is planned for {planned} process{'es' * (planned > 1)} (hardware.devices of phase "
                f"{phase.name}), and {size} {'are' if size > 1 else 'is'} here. Start as many, or give its first "
                f"command again with hardware.devices={size}."
            )


def _fail(error: FtlabError, errors: Path | None, terminal: int) -> None:
    _tell(error, errors, terminal)
    _leave(error.exit_code)


def _leave(code: int) -> NoReturn:
    """End without waiting for anybody: a group that has lost a process would wait for it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(run_dir: RunDir, given: argparse.Namespace, ranks: Ranks, hooks: PhaseHooks | None) -> None:
    from ftlab.engine.run import Part, execute

    started = time.monotonic() - machine.process_age() if given.started is None else given.started
    part = Part(given.phase, not given.begun, not given.unfinished)
    # Who has launched the ranks holds the lock for them.
    takes_lock = ranks.world.is_first and given.errors is None
    with hold(run_dir) if takes_lock else nullcontext():
        execute(run_dir, given.checkpoint, hooks, started=started, ranks=ranks, part=part, turns=given.turns)
        ranks.meet()


def _tell(error: Exception, errors: Path | None, terminal: int) -> None:
    """Why this process ends: to whoever has launched it; without one, to the user.

    :param terminal: where errors went before they went to a file.
    """
    if errors is not None:
        record_failure(errors, current_world().rank, error)
        return
    try:
        world = current_world()
    except NotReadyError:  # which is the error
        world = ALONE
    follows = world.size > 1 and misses_another(error)
    if not isinstance(error, FtlabError) and not (follows and world.is_first):
        traceback.print_exception(error)
    if not world.is_first and follows:
        return  # that one has told it
    os.dup2(terminal, sys.stderr.fileno())
    rank = f"Rank {world.rank} of {world.size}: " if world.size > 1 and not isinstance(error, Interrupted) else ""
    if isinstance(error, FtlabError):
        echo_error(f"{rank}{error}")
    elif world.size > 1:
        echo_error(f"{rank}{describe_missing(error) if follows else first_line(error)}")


def _print_to(path: Path) -> int:
    """Whatever this process prints, and what libraries print in it, goes there. Return where errors went."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(sys.stderr.fileno())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    return before


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--phase", help="that phase alone")
    parser.add_argument("--checkpoint", type=int, help="the step to go on from")
    parser.add_argument("--started", type=float, help="when the command began, on the system's monotonic clock")
    parser.add_argument("--errors", type=Path, help="where a launcher reads why a process failed")
    parser.add_argument("--turns", type=int, help="that the steps of a phase are divided into; it ends with the first")
    parser.add_argument("--begun", action="store_true", help="the start was written down before")
    parser.add_argument("--unfinished", action="store_true", help="other phases follow")
    return parser


if __name__ == "__main__":
    sys.exit(main())
