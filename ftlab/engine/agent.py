"""torch's elastic launcher as a library: what starts the processes of one machine and looks after them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch.distributed import PrefixStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from ftlab.distributed.nodes import NodeLink
from ftlab.engine.process import SIGNALS
from ftlab.errors import Interrupted, Preempted

_INTERRUPTIONS = (Interrupted.exit_code, Preempted.exit_code)
_GRACE = 20  # seconds that the others have to end once one has failed, before they are killed


def run_ranks(command: Sequence[str], count: int, link: NodeLink, name: str) -> RunResult:
    """Run the processes of this machine to their end. :param command: module and arguments of each.
    :param count: of them. :param name: that all machines have for this.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its tables say what is said elsewhere
    spec = WorkerSpec(
        role="rank", local_world_size=count, entrypoint=sys.executable, args=("-m", *command),
        rdzv_handler=_Rendezvous(link, name), max_restarts=0, monitor_interval=0.1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ftlab-ranks-") as folder:  # torch's own would stay
        agent = _Agent(link, spec, DefaultLogsSpecs(folder), exit_barrier_timeout=_GRACE, shutdown_timeout=_GRACE)
        with agent.forwarding():
            return agent.run()


class _Rendezvous(RendezvousHandler):
    """The machines have met already: at the store of a :class:`NodeLink`."""

    def __init__(self, link: NodeLink, name: str):
        self._link, self._name = link, name

    def get_backend(self) -> str:
        return "ftlab"

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        nodes, store = self._link.nodes, self._link.store
        place = RendezvousStoreInfo(nodes.address, self._link.port)
        return RendezvousInfo(PrefixStore(f"launch/{self._name}", store), nodes.rank, nodes.count, place)

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._name

    def shutdown(self) -> bool:
        return True


class _Agent(LocalElasticAgent):
    """torch's own, which hands on the signals that it gets instead of ending every process with them: they have a step
    to finish and a checkpoint to write. It ends them where another machine has failed."""

    def __init__(self, link: NodeLink, *given: Any, **more: Any):
        super().__init__(*given, **more)
        self._link = link
        self._pids: dict[int, int] = {}
        self._early: list[int] = []  # signals that came before there was anybody to hear them

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.state != WorkerState.HEALTHY:
            return result
        told = self._link.told()
        if self._link.missing() is None and not told:
            return result
        # After a signal to all, those of this machine are about to end too.
        if not any(failure.exit_code in _INTERRUPTIONS and not failure.again for failure in told):
            self._hand_on(signal.SIGKILL, None)
        return RunResult(state=WorkerState.FAILED)

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
