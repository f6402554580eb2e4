"""Several processes of which one does not go on: the others would wait for ever, and nobody would know for which.

Each writes down how far it has come. One that has come no further for ``hardware.hang_minutes`` writes down the stacks
of its threads, and all of them end with the name of the one that the others wait for.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from ftlab.distributed.ranks import Ranks
from ftlab.errors import RankHangsError
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic

_LOOKS = 20  # in the time after which a process hangs
_WAITING = ("torch/autograd/", "torch/distributed/", "deepspeed/comm/", "ftlab/distributed/")  # calls that wait
_PATIENCE = 5.0  # seconds in which all that hang write down where


class Watchdog(TrainerCallback):
    """Watches this process from a thread of its own while it trains.

    :param seconds: without a sign of life after which it hangs.
    """

    def __init__(self, run_dir: RunDir, ranks: Ranks, seconds: float):
        self._run_dir, self._ranks, self._seconds = run_dir, ranks, seconds
        self._file = run_dir.heartbeat(ranks.world.rank)
        self._step, self._alive = 0, time.monotonic()
        self._ended = threading.Event()
        self._main = threading.get_ident()

    def beat(self) -> None:
        """A sign of life: a batch of an evaluation, an answer."""
        self._alive = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._file.unlink(missing_ok=True)
        self._ranks.beat = self.beat
        self._reached(state.global_step)
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reached(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._reached(state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.beat()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.beat()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._ended.set()

    def _reached(self, step: int) -> None:
        self._step = step
        self.beat()

    def _watch(self) -> None:
        while not self._ended.wait(_pause(self._seconds)):
            idle = time.monotonic() - self._alive
            hangs = idle > self._seconds
            self._write({"step": self._step, "idle": idle, "hangs": hangs, **(self._place() if hangs else {})})
            if hangs:
                self._end(idle)

    def _write(self, values: Mapping[str, Any]) -> None:
        with suppress(OSError):  # a full disk is told elsewhere
            write_atomic(self._file, json.dumps({"time": time.time(), **values}) + "\n")

    def _place(self) -> dict[str, Any]:
        """Where the thread that trains is, and whether it is in a call that waits for the other processes."""
        frame: FrameType | None = sys._current_frames().get(self._main)
        if frame is None:
            return {"at": "its end", "waits": False}
        where = frame.f_code.co_filename
        waits = any(part in where for part in _WAITING)
        return {"at": f"{frame.f_code.co_name}, {where}:{frame.f_lineno}", "waits": waits}

    def _end(self, idle: float) -> None:
        world = self._ranks.world
        with suppress(OSError), self._run_dir.stacks(world.rank).open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        time.sleep(_PATIENCE)
        found = {rank: self._read(self._run_dir.heartbeat(rank)) for rank in range(world.size)}
        line = describe_hang(found, time.time(), idle, self._seconds, self._run_dir.stacks(world.rank))
        self._ranks.fail(RankHangsError(line))

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found


def _pause(seconds: float) -> float:
    """Seconds between two looks."""
    return min(seconds / _LOOKS, 5.0)


def describe_hang(found: Mapping[int, Mapping[str, Any]], now: float, idle: float, seconds: float, stacks: Path) -> str:
    """Which process the others wait for.

    :param found: what each has written down last, by rank; empty where it has nothing. :param now: seconds since the
        epoch. :param idle: seconds without a step. :param seconds: that are allowed. :param stacks: the file of one
        process's stacks.
    """
    size = len(found)
    step = max((one.get("step", 0) for one in found.values()), default=0)
    old = 2 * _pause(seconds) + 1
    silent = [rank for rank, one in found.items() if not one or (not one["hangs"] and now - one["time"] > old)]
    busy = [rank for rank, one in found.items() if rank not in silent and one.get("hangs") and not one.get("waits")]
    behind = [rank for rank, one in found.items() if one.get("step", 0) < step]
    missing = silent or behind or busy
    if not missing:
        whom = f"All {size} ranks wait for one another"
    else:
        places = [f" (at {found[rank]['at']})" if "at" in found[rank] else " (it gives no sign)" for rank in missing]
        whom = "The others wait for " + " and ".join(f"rank {rank}{place}" for rank, place in zip(missing, places))
    return (
        f"No step for {idle / 60:.3g} minutes after step {step} (hardware.hang_minutes={seconds / 60:g}): the run "
        f"hangs. {whom}. The stacks of each are in {stacks.parent}."
    )
