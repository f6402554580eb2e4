"""What the processes of a run settle among themselves: who does what only one may do, and when the group begins.

They meet at a store of keys and values, which is there before torch's process group and beside it. Whoever waits there
waits as long as it takes: preparing the data of a large run is slower than the time after which a group gives up.
"""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from ftlab.distributed.stores import describe_port
from ftlab.distributed.world import World, current_world
from ftlab.errors import FtlabError, NotReadyError, OtherRankError, first_line

_Result = TypeVar("_Result")
_PAUSE = 0.02  # seconds between two looks
_MEETING = timedelta(minutes=15)  # in which all of them must have come to the store


class Ranks:
    """The processes of a run, as one of them sees them. One that is alone settles everything by itself.

    All of them make the same calls in the same order.

    :param store: torch's, where there are several. :ivar world: which of them this is.
    :ivar beat: takes a sign of life. :ivar fail: ends this process with an error, from any thread: the main one may
        wait for ever.
    """

    fail: Callable[[FtlabError], None]

    def __init__(self, world: World, store: Any = None):
        self.world, self._store = world, store
        self.beat: Callable[[], None] = lambda: None
        self._count = 0

    def once(self, do: Callable[[], _Result]) -> _Result:
        """What only one process may do, as whatever is written to the run directory: the first does it, and every
        process gets what it returned, which must be picklable, or raises what it raised.

        :raises OtherRankError: in the others, where the first met with what is no error of ours.
        """
        if self._store is None:
            return do()
        self._count += 1
        key = f"ftlab/{self._count}"
        if not self.world.is_first:
            return self._result(key)
        try:
            result = do()
        except BaseException as error:
            kept = error if isinstance(error, FtlabError) else OtherRankError(first_line(error))
            self._store.set(key, pickle.dumps((False, kept)))
            raise
        self._store.set(key, pickle.dumps((True, result)))
        return result

    def _result(self, key: str) -> Any:
        while not self._store.check([key]):
            time.sleep(_PAUSE)
        is_good, value = pickle.loads(self._store.get(key))
        if not is_good:
            raise value
        return value

    def meet(self, patience: float = math.inf) -> None:
        """Wait until every process has come here. :param patience: seconds after which it goes on without them."""
        if self._store is None:
            return
        self._count += 1
        key, until = f"ftlab/{self._count}", time.monotonic() + patience
        self._store.add(f"{key}/there", 1)
        self._wait_for(f"{key}/there", self.world.size, until)
        # The store may be in the first process, and end with it while the others are still looking.
        if not self.world.is_first:
            self._store.add(f"{key}/gone", 1)
        else:
            self._wait_for(f"{key}/gone", self.world.size - 1, until)

    def _wait_for(self, key: str, count: int, until: float) -> None:
        while time.monotonic() < until and self._store.add(key, 0) < count:
            time.sleep(_PAUSE)

    def begin_group(self, on_cpu: bool) -> None:
        """Begin torch's process group, in which the ranks sum their gradients, if it has not begun.

        :param on_cpu: over gloo; the device's own way otherwise.
        """
        import torch.distributed as dist

        if self._store is None or dist.is_initialized():
            return
        import torch

        backend, device = "gloo", None if on_cpu else torch.accelerator.current_accelerator()
        if device is not None:
            count, local = torch.accelerator.device_count(), self.world.local_rank
            if local >= count:
                raise NotReadyError(
                    f"Rank {self.world.rank} of {self.world.size} has no device: it is number {local} on its machine, "
                    f"which shows {count}. Use hardware.devices={count}."
                )
            torch.accelerator.set_device_index(self.world.local_rank)
            # Beside the device's own, for what is settled without it.
            backend = f"cpu:gloo,{device.type}:{dist.get_default_backend_for_device(device)}"
        dist.init_process_group(
            backend, store=dist.PrefixStore("group", self._store), rank=self.world.rank, world_size=self.world.size
        )

    def group_size(self) -> int:
        """How many processes torch's group has found; 1 where it has not begun."""
        import torch.distributed as dist

        return dist.get_world_size() if dist.is_initialized() else 1

    def greatest(self, value: int) -> int:
        """What the process says that says most. Torch's group must have begun; no device is waited for."""
        if self._store is None:
            return value
        import torch
        import torch.distributed as dist

        found = torch.tensor(value)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)

    def gather(self, value: _Result) -> list[_Result]:
        """What each process says, by rank; it must be picklable. Torch's group must have begun."""
        if self._store is None:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world.size
        dist.all_gather_object(found, value)
        return found

    def close(self) -> None:
        """Leave the group. Nobody leaves before all have come to the end of what they share."""
        import torch.distributed as dist

        if dist.is_initialized():  # by DeepSpeed, where there is one alone
            dist.destroy_process_group()


def join_ranks() -> Ranks:
    """The processes of this run: those that a launcher has started, or this one alone.

    :raises NotReadyError: the others cannot be reached, or the port is in use.
    """
    world = current_world()
    if world.size == 1:
        return Ranks(world)
    import torch.distributed as dist

    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=_MEETING))
    except (ValueError, RuntimeError) as error:
        if world.is_first and isinstance(error, dist.DistNetworkError):
            raise NotReadyError(describe_port(address, port, error)) from None
        line = f"Rank {world.rank} of {world.size} does not reach the others: {first_line(error)}"
        raise NotReadyError(line) from None
    # A launcher may keep one store for the processes of several phases.
    return Ranks(world, dist.PrefixStore(os.environ.get("TORCHELASTIC_RUN_ID", "run"), store))
