"""Start the processes of a run, one for each device of this machine, phase by phase, and see them to their end.

``python -m ftlab.engine.launch RUN_DIR`` does the same from a shell, for a run directory that is there; on each machine
of a run that is planned for several.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ftlab.base import machine
from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo, echo_error
from ftlab.distributed.failures import RankFailure, failure_of_first, recorded_failures
from ftlab.distributed.nodes import NodeLink
from ftlab.distributed.world import Nodes, chosen_nodes, planned_devices, planned_nodes, slurm_nodes, threads_of_rank
from ftlab.errors import FtlabError, Interrupted, NodeLostError, NotReadyError, Preempted, RankFailedError
from ftlab.preflight import check as preflight
from ftlab.rundir.claim import hold
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Phase
from ftlab.rundir.start_folder import in_start_folder

_RANK = "ftlab.engine.worker"
_ALONE = Nodes(0, 1, "localhost", 0)


def main() -> None:
    """Each of a run's machines runs this once; the first holds the lock for all."""
    given = _parser().parse_args()
    quiet_libraries()
    nodes = _ALONE
    try:
        started = time.monotonic() - machine.process_age()
        with in_start_folder(RunDir.open(given.run_dir)) as (run_dir, _), ExitStack() as stack:
            nodes = slurm_nodes() or _nodes_by_hand(run_dir, given)
            nodes = _ALONE if nodes.count == 1 else nodes  # at a port that is free
            link = stack.enter_context(NodeLink(nodes, echo))

            def begin() -> None:
                if nodes.rank == 0:
                    stack.enter_context(hold(run_dir))
                preflight.check_plan(run_dir.plan())

            link.meet(run_dir.shared_mark)
            link.agree(begin)
            _launch(run_dir, given.checkpoint, started, link, turns=given.turns)
    except KeyboardInterrupt:
        echo_error(Interrupted("Interrupted before anything was begun."))
        sys.exit(Interrupted.exit_code)
    except FtlabError as error:
        # Under Slurm the machines have one output, and what all of them know is told by the first.
        if not (nodes.rank and slurm_nodes() and isinstance(error, RankFailedError | Interrupted)):
            echo_error(error)
        sys.exit(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.launch", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--checkpoint", type=int, help="the step to go on from")
    parser.add_argument("--turns", type=int, help="that the steps of a phase are divided into; it ends with the first")
    several = parser.add_argument_group("several machines", "Where Slurm starts them, it says all of this.")
    several.add_argument("--node-rank", type=int, metavar="N", help="which of them this is, from 0")
    several.add_argument("--master-addr", metavar="HOST", help="where the first is; MASTER_ADDR")
    several.add_argument("--master-port", type=int, metavar="PORT", help="free there; MASTER_PORT, or 29500")
    return parser


def _nodes_by_hand(run_dir: RunDir, given: argparse.Namespace) -> Nodes:
    count = max(planned_nodes(phase.config.hardware) for phase in run_dir.plan().phases)
    return chosen_nodes(count, given.node_rank, given.master_addr, given.master_port) or _ALONE


def launch(run_dir: RunDir, checkpoint: int | None, started: float, module: str = _RANK) -> None:
    """Run the phases that are left on this machine, each in processes of its own. The lock of the run directory must be
    held.

    :param checkpoint: the step that the first of them goes on from. :param started: when the command began, as
        ``time.monotonic()`` has it. :param module: what each process runs.
    :raises RankFailedError: what the first process that failed says.
    """
    with NodeLink(_ALONE, echo) as link:
        _launch(run_dir, checkpoint, started, link, module)


def _launch(
    run_dir: RunDir, checkpoint: int | None, started: float, link: NodeLink, module: str = _RANK,
    turns: int | None = None,
) -> None:  # fmt: skip
    """The same on this machine's share of those that are linked. :param turns: as a worker has it.

    :raises NodeLostError: one of them is gone.
    """
    from ftlab.engine.run import execute, phases_to_run  # which import transformers

    names = link.share([phase.name for phase in phases_to_run(run_dir)])
    plan = run_dir.plan()
    phases = [phase for phase in plan.phases if phase.name in names]
    for phase in phases:
        _check_nodes(phase, link.nodes)
    if not phases and link.nodes.rank == 0:
        execute(run_dir)  # which says so
    with tempfile.TemporaryDirectory(prefix="ftlab-errors-") as errors:
        for number, phase in enumerate(phases):
            given = ["--errors", errors, "--started", str(started)]
            given += ["--phase", phase.name] if len(plan.phases) > 1 else []
            given += ["--turns", str(turns)] if turns is not None else []
            given += ["--unfinished"] if phase is not phases[-1] else []
            more = ["--checkpoint", str(checkpoint)] if checkpoint is not None else []  # of the first phase
            more += ["--begun"] if number else []
            size = planned_devices(phase.config.hardware)
            for attempt in itertools.count():
                name = f"phase-{number}-{attempt}"
                if _run(run_dir, [module, str(run_dir.path), *given, *more], size, Path(errors), link, name):
                    break
                more = ["--begun"]
            checkpoint = None


def _check_nodes(phase: Phase, nodes: Nodes) -> None:
    """:raises NotReadyError: a phase is planned for other machines than there are."""
    planned = planned_nodes(phase.config.hardware)
    if planned != nodes.count:
        raise NotReadyError(
            f"Phase {phase.name} is planned for hardware.nodes={planned}, and {nodes.count} "
            f"machine{'s are' if nodes.count > 1 else ' is'} here. All phases of a start need as many: run.phases "
            "chooses some."
        )


def _run(run_dir: RunDir, command: list[str], size: int, errors: Path, link: NodeLink, name: str) -> bool:
    """Run one phase. :param command: the module of a process, and what it is given. :param size: processes on all
    machines. :param name: that all machines have for it. :return: False where it has to be started again.
    """
    from ftlab.engine.agent import run_ranks

    count = size // link.nodes.count
    for written in errors.iterdir():
        written.unlink()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_rank(count)))
    link.begin(name)
    result = run_ranks(command, count, link, name)
    if not result.is_failed() and not link.told():
        return True
    own = _own_failure(result.failures, errors)
    if own is not None:
        link.tell(own)
    cause = link.cause(own)
    assert cause is not None, "a process of this machine has failed, or another machine"
    if isinstance(cause, int):
        error: FtlabError = NodeLostError(link.describe_missing(cause))
    else:
        if link.share(cause.again):
            if link.nodes.rank == 0:
                _go_on(run_dir, cause.message)
            return False
        error = _error(run_dir, cause, size)
    if link.nodes.rank == 0:
        _record(run_dir, error, "" if isinstance(cause, int) or cause.is_ours else cause.trace)
    raise error


def _go_on(run_dir: RunDir, line: str) -> None:
    """:param line: why all processes are started again."""
    echo(line)
    if run_dir.manifest_json.is_file():
        Manifest(run_dir).record(status="running", error=None)


def _own_failure(failures: Mapping[int, Any], errors: Path) -> RankFailure | None:
    """Why the first process of this machine ended: the others fail because it is gone. None where none failed."""
    written = recorded_failures(errors)
    there = {failure.rank for failure in written}
    ended = [
        RankFailure(rank, time.time(), "", False, "", one.exitcode, False, max(-one.exitcode, 0))
        for rank, one in failures.items()
        if rank not in there
    ]
    # Of processes that only follow, one that was killed is the cause, and one that ended without a word may be.
    return failure_of_first([*written, *ended])


def _error(run_dir: RunDir, failure: RankFailure, count: int) -> FtlabError:
    """What a process ended with, for the user."""
    rank = f"Rank {failure.rank} of {count}"
    if failure.signal:
        number = signal.Signals(failure.signal)
        line = f"{rank} was ended by {number.name}; the others were stopped. {_WHY.get(number, '')}"
        return RankFailedError(line.strip())
    if failure.is_ours:
        for interruption in (Preempted, Interrupted):
            if failure.exit_code == interruption.exit_code:
                return interruption(failure.message)
        # What the first met with, the others mostly have too.
        line = failure.message if failure.rank == 0 else f"{rank}: {failure.message}"
        return RankFailedError(line, failure.exit_code)
    if not failure.trace:
        line = f"{rank} ended with exit code {failure.exit_code} and without a word"
        return RankFailedError(f"{line}; see {run_dir.rank_log(failure.rank)}.")
    return RankFailedError(
        f"{rank} failed: {failure.message}\nThe others were stopped. Its traceback is in {run_dir.log}."
    )


_WHY = {signal.SIGKILL: "The system does that where memory runs out."}


def _record(run_dir: RunDir, error: FtlabError, trace: str) -> None:
    """In the manifest stands why the run ended, not what the first process met with because of it."""
    if trace:
        with run_dir.log.open("a", encoding="utf-8") as log:
            log.write(trace)
    if isinstance(error, Interrupted) or not run_dir.manifest_json.is_file():  # nothing had begun, and all was removed
        return
    manifest = Manifest(run_dir)
    if manifest.values.get("status") in ("running", "failed"):
        manifest.record(status="failed", error=str(error))


if __name__ == "__main__":
    main()
