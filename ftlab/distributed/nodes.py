"""The machines of a run, of which each has a launcher: how these find each other, notice that one is gone, and tell one
another why a run ended.

They meet at a store of torch's that the first of them keeps. The processes that they start settle what they have to at
the same one, so that a run takes one port.
"""

from __future__ import annotations

import json
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ftlab.distributed.failures import RankFailure, failure_of_first, read_failure
from ftlab.distributed.stores import ANSWER, MEETING, open_store
from ftlab.distributed.world import Nodes
from ftlab.errors import FtlabError, NodeLostError, NotReadyError, RankFailedError

_Value = TypeVar("_Value")
_SHARED = 120.0  # in which a shared file system shows what another machine has written
_SILENCE = 12.0  # without a sign of life after which one is gone
_BEAT = 1.0  # between two signs
_PARTING = 20.0  # that the first stays for the others to hear why a run ended
_PAUSE = 0.1


class NodeLink:
    """What the launchers of a run have in common; on one machine alone, only the store. A context manager.

    :param nodes: this machine among them. :param say: takes a line for the user.
    :ivar store: torch's. :ivar port: where it is.
    :raises NotReadyError: the port is in use, or the first machine cannot be reached.
    """

    def __init__(self, nodes: Nodes, say: Callable[[str], Any]):
        self.nodes, self._say = nodes, say
        self.store = open_store(nodes, say)
        self.port: int = self.store.port
        self._hosts: list[str] = []  # empty where they have not met
        self._count = 0
        self._name_of_work = ""
        self._ended = threading.Event()
        self._seen: dict[int, float] = {}  # when each of the others gave its last sign
        self._looked = time.monotonic()
        self._missing: int | None = None
        # Calls of a store whose machine has frozen never end: from the meeting on the thread alone makes those that
        # others would wait for.
        self._thread: threading.Thread | None = None
        self._to_tell: dict[str, str] = {}
        self._told: dict[str, RankFailure] = {}
        if nodes.count > 1:
            import torch.distributed as dist

            # A connection of its own: one that waits for an answer keeps all others waiting.
            there = dist.TCPStore(nodes.address, self.port, is_master=False, timeout=ANSWER)
            self._line = dist.PrefixStore("nodes", there)

    def __enter__(self) -> NodeLink:
        return self

    def __exit__(self, *_: object) -> None:
        """The first stays until the others have heard all that it knows."""
        self._ended.set()
        if self._thread is not None and self._missing != 0:
            self._thread.join(_SILENCE + _PARTING)

    @property
    def _others(self) -> list[int]:
        return [rank for rank in range(self.nodes.count) if rank != self.nodes.rank]

    def meet(self, shared: Path) -> None:
        """Wait until every machine is here. :param shared: a file that the first writes and all others must see.

        :raises NotReadyError: a machine has not come, or has another file system.
        """
        if self.nodes.count == 1:
            return
        with _lost_first_is_told(self.nodes):
            self._line.set(f"{self.nodes.rank}/host", socket.gethostname())
            self._wait_for_all()
            self._hosts = [self._line.get(f"{rank}/host").decode() for rank in range(self.nodes.count)]
        self._seen = dict.fromkeys(self._others, time.monotonic())
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="nodes")
        self._thread.start()
        if self.nodes.rank == 0:
            token = secrets.token_hex(8)
            shared.parent.mkdir(parents=True, exist_ok=True)
            shared.write_text(token, encoding="utf-8")
        self.agree(lambda: self._find(shared, self.share(token if self.nodes.rank == 0 else "")))

    def _find(self, shared: Path, token: str) -> None:
        until = time.monotonic() + _SHARED
        while not (shared.is_file() and shared.read_text(encoding="utf-8") == token):
            if time.monotonic() > until:
                raise NotReadyError(
                    f"{shared} is not there as node 0 has written it. A run on several machines needs its directory on "
                    "a file system that all of them share."
                )
            time.sleep(_PAUSE)

    def share(self, value: _Value) -> _Value:
        """What the first machine says, which JSON must be able to hold. All make the same calls in the same order."""
        if not self._hosts:
            return value
        self._count += 1
        key = f"shared/{self._count}"
        if self.nodes.rank == 0:
            self._line.set(key, json.dumps(value))
            return value
        found: _Value = json.loads(self._answer(key))
        return found

    def agree(self, begin: Callable[[], Any]) -> None:
        """Let every machine do what it has to before it goes on. All make the same calls in the same order.

        :raises RankFailedError: what it is that keeps one of them from it.
        """
        if not self._hosts:
            begin()
            return
        self._count += 1
        problem = ""
        try:
            begin()
        except FtlabError as error:
            problem = str(error)
        key = f"agrees/{self._count}"
        with _lost_first_is_told(self.nodes):
            self._line.set(f"{self.nodes.rank}/{key}", json.dumps(problem))
        for rank in range(self.nodes.count):
            if answer := json.loads(self._answer(f"{rank}/{key}")):
                raise RankFailedError(f"{self._name(rank)}: {answer}")

    def _answer(self, key: str) -> str:
        """What another machine sets. :raises NodeLostError: one is gone."""
        with _lost_first_is_told(self.nodes):
            while not self._line.check([key]):
                if (rank := self.missing()) is not None:
                    raise NodeLostError(self.describe_missing(rank))
                time.sleep(_PAUSE)
            text: str = self._line.get(key).decode()
        return text

    def _wait_for_all(self) -> None:
        begun, told = time.monotonic(), False
        while missing := [rank for rank in self._others if not self._line.check([f"{rank}/host"])]:
            names = " and ".join(f"node {rank}" for rank in missing)
            waited = time.monotonic() - begun
            if waited > MEETING:
                raise NotReadyError(
                    f"Of {self.nodes.count} machines {names} has not come in {MEETING / 60:.0f} minutes to "
                    f"{self.nodes.address}:{self.port}. Each needs a number of its own, from 0 on."
                )
            if waited > 2 and not told:
                self._say(f"waiting for {names} of {self.nodes.count} at {self.nodes.address}:{self.port}")
                told = True
            time.sleep(_PAUSE)

    # ------------------------------------------------------------------------------------------------ signs of life

    def _beat(self) -> None:
        """Give signs of life and look for those of the others, with what they tell. Where the store is gone, so is the
        first machine."""
        counts: dict[int, int] = {}
        with suppress(RuntimeError):
            while not self._ended.is_set():
                self._exchange(counts)
                self._ended.wait(_BEAT)
            self._exchange(counts)
            self._line.set(f"{self.nodes.rank}/ended", "1")
            until = time.monotonic() + _PARTING
            there = [rank for rank in self._others if rank != self._missing]
            while self.nodes.rank == 0 and time.monotonic() < until and not all(map(self._has_ended, there)):
                time.sleep(_PAUSE)
            return
        self._looked = -math.inf

    def _exchange(self, counts: dict[int, int]) -> None:
        """:param counts: the last sign of each of the others."""
        self._line.add(f"{self.nodes.rank}/alive", 1)
        for name, text in [*self._to_tell.items()]:
            self._line.set(f"{name}/{self.nodes.rank}/failure", text)
        for rank in self._others:
            count = self._line.add(f"{rank}/alive", 0)
            if count != counts.get(rank) or self._has_ended(rank):
                counts[rank], self._seen[rank] = count, time.monotonic()
            key = f"{self._name_of_work}/{rank}/failure"
            if key not in self._told and self._line.check([key]):
                self._told[key] = read_failure(self._line.get(key).decode())
        self._looked = time.monotonic()

    def missing(self) -> int | None:
        """A machine that has given no sign of life for too long; None where there is none. Whoever was missed once is
        not waited for again."""
        now = time.monotonic()
        if self._missing is None and self.nodes.rank != 0 and self._hosts and now - self._looked > _SILENCE:
            self._missing = 0
        if self._missing is None:
            self._missing = next((rank for rank, when in [*self._seen.items()] if now - when > _SILENCE), None)
        return self._missing

    def describe_missing(self, rank: int) -> str:
        return (
            f"{self._name(rank)} has ended or cannot be reached: no sign of life from it. The processes of "
            f"{self._name(self.nodes.rank)} were stopped."
        )

    def _name(self, rank: int) -> str:
        host = f" ({self._hosts[rank]})" if self._hosts else ""
        return f"Node {rank} of {self.nodes.count}{host}"

    def _has_ended(self, rank: int) -> bool:
        return bool(self._line.check([f"{rank}/ended"]))

    # ---------------------------------------------------------------------------------------------------- failures

    def begin(self, name: str) -> None:
        """From here on failures are those of this work. :param name: that all machines have for it."""
        self._name_of_work = name

    def tell(self, failure: RankFailure) -> None:
        """Let the others know why the processes of this machine ended."""
        self._to_tell[self._name_of_work] = json.dumps(vars(failure))

    def told(self) -> list[RankFailure]:
        """Why those of the others did, as far as they have told."""
        work = f"{self._name_of_work}/"
        return [failure for key, failure in [*self._told.items()] if key.startswith(work)]

    def cause(self, own: RankFailure | None) -> RankFailure | int | None:
        """Why the processes of all machines ended: what the first that failed of itself says, or the number of a
        machine that is missing. Of one that failed because another is gone, that one's launcher knows more.

        :param own: what this machine knows.
        """
        until = time.monotonic() + (_SILENCE + _PARTING if self._hosts else 0)
        while True:
            first = failure_of_first(failure for failure in (own, *self.told()) if failure is not None)
            if first is not None and not first.follows:
                return first
            if (rank := self.missing()) is not None:
                return rank
            if time.monotonic() > until:
                return first
            time.sleep(_PAUSE)


@contextmanager
def _lost_first_is_told(nodes: Nodes) -> Iterator[None]:
    """:raises NodeLostError: the store is gone, and with it the first machine."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, FtlabError):
            raise
        raise NodeLostError(f"Node {nodes.rank} of {nodes.count} has lost node 0 at {nodes.address}.") from None
