"""Start the processes of a run, one for each device of this machine, phase by phase, and see them to their end.

``python -m ftlab.engine.launch RUN_DIR`` does the same from a shell, for a run directory that is there.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous import registry as rendezvous

from ftlab.base import machine
from ftlab.base.terminal import echo_error
from ftlab.distributed.failures import first_failure
from ftlab.distributed.world import Nodes, planned_devices, planned_nodes, slurm_nodes, threads_of_rank
from ftlab.engine.process import SIGNALS, quiet_libraries
from ftlab.engine.run import phases_to_run
from ftlab.errors import FtlabError, Interrupted, NotReadyError, Preempted, RankFailedError
from ftlab.rundir.claim import hold
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Phase
from ftlab.rundir.start_folder import in_start_folder

_GRACE = 20  # seconds that the others have to end once one has failed, before they are killed


def main() -> None:
    """Of the machines of a Slurm job step each runs this once; the first holds the lock for all."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.launch", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("--checkpoint", type=int, help="the step to go on from")
    given = parser.parse_args()
    quiet_libraries()
    try:
        nodes = slurm_nodes()
        started = time.monotonic() - machine.process_age()
        with in_start_folder(RunDir.open(given.run_dir)) as (run_dir, _), ExitStack() as stack:
            if nodes is None or nodes.rank == 0:
                stack.enter_context(hold(run_dir))
            launch(run_dir, given.checkpoint, started, nodes)
    except FtlabError as error:
        echo_error(error)
        sys.exit(error.exit_code)


def launch(run_dir: RunDir, checkpoint: int | None, started: float, nodes: Nodes | None = None) -> None:
    """Run the phases that are left, each in processes of its own. The lock of the run directory must be held.

    :param checkpoint: the step that the first of them goes on from. :param started: when the command began, as
        ``time.monotonic()`` has it. :param nodes: the machines, of which this one runs its share; None: this alone.
    :raises RankFailedError: what the first process that failed says.
    """
    left = phases_to_run(run_dir)
    several = len(run_dir.plan().phases) > 1
    with tempfile.TemporaryDirectory(prefix="ftlab-errors-") as errors:
        for number, phase in enumerate(left):
            command = [str(run_dir.path), "--errors", errors, "--started", str(started)]
            command += ["--checkpoint", str(checkpoint)] if checkpoint is not None else []
            command += ["--phase", phase.name] if several else []
            command += ["--begun"] if number else []
            command += ["--unfinished"] if phase is not left[-1] else []
            _run(run_dir, command, planned_devices(phase.config.hardware), Path(errors), _several(nodes, phase), number)
            checkpoint = None  # it was a step of the phase at which the run stood


def _several(nodes: Nodes | None, phase: Phase) -> Nodes | None:
    """The machines that a phase runs on, where they are several.

    :raises NotReadyError: it is planned for others than there are.
    """
    planned, count = planned_nodes(phase.config.hardware), 1 if nodes is None else nodes.count
    if planned != count:
        raise NotReadyError(
            f"hardware.nodes={planned}, and {count} machine{'s are' if count > 1 else ' is'} here. Several are started "
            "by Slurm, with a task on each: srun --ntasks-per-node=1 python -m ftlab.engine.launch RUN_DIR."
        )
    return nodes if count > 1 else None


def _run(run_dir: RunDir, command: list[str], size: int, errors: Path, nodes: Nodes | None, number: int) -> None:
    """Run one phase. :param size: processes on all machines. :param number: of the phase among those of this start."""
    count = size // (nodes.count if nodes else 1)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its tables say what is said below
    address, port = "localhost", None
    parameters = RendezvousParameters("c10d", "localhost:0", run_dir.path.name, 1, 1, local_addr=address)
    if nodes is not None:
        address, port = nodes.address, nodes.port + number  # the last phase's may not be free yet
        parameters = RendezvousParameters(
            "static", f"{address}:{port}", f"phase-{number}", nodes.count, nodes.count, rank=nodes.rank
        )
    spec = WorkerSpec(
        role="rank", local_world_size=count, entrypoint=sys.executable, args=("-m", "ftlab.engine.worker", *command),
        rdzv_handler=rendezvous.get_rendezvous_handler(parameters), max_restarts=0, monitor_interval=0.1,
        **({"local_addr": address} if nodes is None else {"master_addr": address, "master_port": port}),
    )  # fmt: skip
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_rank(count)))
    agent = _Agent(spec, DefaultLogsSpecs(), shutdown_timeout=_GRACE)
    try:
        with agent.forwarding():
            result = agent.run()
    finally:
        spec.rdzv_handler.shutdown()
    if result.is_failed():
        raise _failure(run_dir, result.failures, size, errors)


class _Agent(LocalElasticAgent):
    """torch's own, which hands on the signals that it gets instead of ending every process with them: they have a step
    to finish and a checkpoint to write."""

    def __init__(self, *given: Any, **more: Any):
        super().__init__(*given, **more)
        self._pids: dict[int, int] = {}
        self._early: list[int] = []  # signals that came before there was anybody to hear them

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self._pids = super()._start_workers(worker_group)
        for number in self._early:
            self._hand_on(number, None)
        return self._pids

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        # torch takes its list of signals from here, and raises an exception at each.
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
        before = {number: signal.signal(number, self._hand_on) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hand_on(self, number: int, frame: Any) -> None:
        if not self._pids:
            self._early.append(number)
        for pid in self._pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _failure(run_dir: RunDir, failures: dict[int, Any], count: int, errors: Path) -> Exception:
    """The error of the process that failed first: the others fail because it is gone."""
    killed = {rank: -one.exitcode for rank, one in failures.items() if one.exitcode < 0}
    written = first_failure(errors)
    if killed and (written is None or written.follows):
        rank, number = next(iter(killed.items()))
        line = f"Rank {rank} of {count} was ended by {_signal_name(number)}"
        return _recorded(run_dir, RankFailedError(f"{line}; the others were stopped. {_WHY.get(number, '')}".strip()))
    if written is None:
        rank, one = next(iter(failures.items()))
        line = f"Rank {rank} of {count} ended with exit code {one.exitcode} and without a word"
        return _recorded(run_dir, RankFailedError(f"{line}; see {run_dir.rank_log(rank)}."))
    if written.is_ours:
        for interruption in (Preempted, Interrupted):
            if written.exit_code == interruption.exit_code:
                return interruption(written.message)
        # What the first met with, the others mostly have too.
        line = written.message if written.rank == 0 else f"Rank {written.rank} of {count}: {written.message}"
        return _recorded(run_dir, RankFailedError(line, written.exit_code))
    with run_dir.log.open("a", encoding="utf-8") as log:
        log.write(written.trace)
    line = f"Rank {written.rank} of {count} failed: {written.message}"
    return _recorded(run_dir, RankFailedError(f"{line}\nThe others were stopped. Its traceback is in {run_dir.log}."))


_WHY = {signal.SIGKILL: "The system does that where memory runs out."}


def _signal_name(number: int) -> str:
    return signal.Signals(number).name


def _recorded(run_dir: RunDir, error: Exception) -> Exception:
    """In the manifest stands why the run ended, not what the first process met with because of it."""
    if not run_dir.manifest_json.is_file():  # nothing had begun, and the run directory was taken away
        return error
    manifest = Manifest(run_dir)
    if manifest.values.get("status") in ("running", "failed"):
        manifest.record(status="failed", error=str(error))
    return error


if __name__ == "__main__":
    main()
