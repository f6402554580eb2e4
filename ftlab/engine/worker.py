"""One process of a run: ``python -m ftlab.engine.worker RUN_DIR``.

It takes everything from the run directory; which of the processes it is, the variables of torchrun say. Started by
:mod:`ftlab.engine.launch`, or by hand: ``torchrun --nproc-per-node 2 -m ftlab.engine.worker RUN_DIR``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from ftlab.base import machine
from ftlab.base.terminal import echo_error
from ftlab.distributed.failures import record_failure
from ftlab.distributed.ranks import Ranks, join_ranks
from ftlab.distributed.world import current_world
from ftlab.engine.process import quiet_libraries
from ftlab.errors import FtlabError, Interrupted
from ftlab.rundir.claim import hold
from ftlab.rundir.directory import RunDir

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def main() -> int:
    """:returns: the exit code."""
    given = _parser().parse_args()
    _die_with_parent()
    quiet_libraries()
    ranks: Ranks | None = None
    try:
        run_dir = RunDir.open(given.run_dir)
        if not current_world().is_first:
            _print_to(run_dir.rank_log(current_world().rank))
        ranks = join_ranks()
        _run(run_dir, given, ranks)
    except FtlabError as error:
        if ranks is not None and isinstance(error, Interrupted):
            ranks.meet()  # whoever ends first takes the others with it, and one of them may be writing still
        _tell(error, given.errors)
        return error.exit_code
    except Exception as error:
        _tell(error, given.errors)
        raise
    finally:
        if ranks is not None:
            ranks.close()
    return 0


def _run(run_dir: RunDir, given: argparse.Namespace, ranks: Ranks) -> None:
    from ftlab.engine.run import Part, execute

    started = time.monotonic() - machine.process_age() if given.started is None else given.started
    part = Part(given.phase, not given.begun, not given.unfinished)
    # Who has launched the ranks holds the lock for them.
    takes_lock = ranks.world.is_first and given.errors is None
    with hold(run_dir) if takes_lock else nullcontext():
        execute(run_dir, given.checkpoint, started=started, ranks=ranks, part=part)
        ranks.meet()


def _tell(error: Exception, errors: Path | None) -> None:
    """Why this process ends: to whoever has launched it; without one, to the user."""
    world = current_world()
    if errors is not None:
        record_failure(errors, world.rank, error)
    elif isinstance(error, FtlabError):
        echo_error(error)


def _print_to(path: Path) -> None:
    """Whatever this process prints, and what libraries print in it, goes there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _die_with_parent() -> None:
    """A process whose launcher was killed must not go on writing into a run directory that nobody holds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.worker", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--phase", help="that phase alone")
    parser.add_argument("--checkpoint", type=int, help="the step to go on from")
    parser.add_argument("--started", type=float, help="when the command began, on the system's monotonic clock")
    parser.add_argument("--errors", type=Path, help="where a launcher reads why a process failed")
    parser.add_argument("--begun", action="store_true", help="the start was written down before")
    parser.add_argument("--unfinished", action="store_true", help="other phases follow")
    return parser


if __name__ == "__main__":
    sys.exit(main())
