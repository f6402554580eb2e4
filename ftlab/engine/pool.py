"""``hydra/launcher=gpus``: runs of a sweep in processes of their own, as many at once as this machine has devices.

What a process is handed are run directories: one, or, where those of a device take turns, several.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_error
from ftlab.distributed.sharding import needs_launch
from ftlab.distributed.world import driver_gpus, environment_of_devices, planned_devices, threads_of_rank
from ftlab.engine import tasks
from ftlab.engine.child import start, why_not_finished
from ftlab.engine.live_leaderboard import sweep_progress
from ftlab.engine.process import Interruption
from ftlab.engine.work import Prepared, Work
from ftlab.errors import ConfigError, Mistake
from ftlab.preflight.directory import how_to_go_on
from ftlab.preflight.fit import TIGHT
from ftlab.preflight.memory import device_of, predict
from ftlab.rundir.directory import RunDir
from ftlab.rundir.failures import Failures
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import Run
from ftlab.schema.launchers import Gpus

_PAUSE = 0.2  # seconds between two looks at the processes


@dataclass(frozen=True)
class Pooled(Prepared):
    """:param devices: that the run needs at once. :param is_launched: whether it starts processes of its own.
    :param on_cpu: whether its devices are shares of the cores. :param needed: bytes of one device, as predicted.
    :param memory: of one device; None where nobody knows.
    """

    devices: int
    is_launched: bool
    on_cpu: bool
    needed: float
    memory: float | None


def prepare(title: str, run: Run, overrides: Sequence[str], options: Gpus) -> Pooled:
    """Check a run and make its directory.

    :raises FtlabError: it cannot run, or is somebody else's.
    """
    count, gpus = planned_devices(run.hardware), _gpus(run)
    if gpus is not None and options.devices is not None and options.devices > gpus:
        raise ConfigError([Mistake("hydra.launcher.devices", f"this machine shows {gpus}", options.devices)])
    there = options.devices or gpus
    if there is not None and count > there:
        reason = f"a config may have {there} here: hydra.launcher.devices, or this machine's GPUs"
        raise ConfigError([Mistake("hardware.devices", reason, count)])
    device = device_of(run, is_here=True)
    path = tasks.prepare(run, overrides, is_here=True).path
    needed = predict(run, device).needed
    return Pooled(title, path, count, needs_launch(run), _gpus(run) is None, needed, device.memory)


def _gpus(run: Run) -> int | None:
    """Of this machine, for a run; None where it trains on the CPU."""
    return None if run.hardware.name == "cpu" else (driver_gpus() or None)


def train_all(work: Work[Pooled], options: Gpus, sweep: SweepDir) -> None:
    """Train the runs of a sweep. One that fails is recorded; all others go on.

    :raises Interrupted: on a signal, when all that were at work have saved; says how to go on.
    """
    to = Terminal(highlight=False, emoji=False)
    with (
        Interruption(f"Interrupted. {how_to_go_on(sweep)}") as interruption,
        tempfile.TemporaryDirectory(prefix="ftlab-failures-") as failures,
    ):
        first = work.take(0)
        pool = _Pool(options, options.devices or _slots(first), Path(failures), to)
        pool.add(first)
        to.print(f"{work.count} configs, {pool.slots} at a time", soft_wrap=True)
        interruption.is_training = True  # the runs end their steps, and then this does
        with sweep_progress(to, sweep, work.count, "configs") as bar:
            while pool.active or (work.is_open and not interruption.requested):
                if interruption.asked_by is not None:
                    pool.stop(interruption.asked_by)
                pool.start_what_fits()
                time.sleep(_PAUSE)
                for run, why in pool.ended():
                    if why is not None:
                        work.record(run, error=why)
                    work.leave(run)
                if not interruption.requested:
                    pool.add(work.take(pool.active))
                bar.expect(work.count)
                bar.update(pool.done)
        if interruption.requested:
            raise KeyboardInterrupt


def _slots(runs: Sequence[Pooled]) -> int:
    """How many devices there are: GPUs, or, on a CPU, as many configs as there are cores and memory for."""
    gpus = driver_gpus()
    if not runs or (gpus and not all(run.on_cpu for run in runs)):
        return gpus or 1
    most = min(threads_of_rank(1), len(runs))
    memory, needed = runs[0].memory, max(run.needed for run in runs)
    room = most if memory is None else int(TIGHT * memory // needed)
    return max(1, min(most, room), *(run.devices for run in runs))


@dataclass(frozen=True)
class _Worker:
    """A process. :param runs: that it trains. :param devices: by number. :param log: what it prints."""

    process: subprocess.Popen[bytes]
    runs: tuple[Pooled, ...]
    devices: tuple[int, ...]
    log: Path


class _Pool:
    """Which runs wait, are at work and have ended. :ivar slots: how many devices there are. :ivar done: how many have
    ended."""

    def __init__(self, options: Gpus, slots: int, failures: Path, to: Terminal):
        self._options, self._failures, self._to = options, failures, to
        self._free = [*range(slots)]
        self._waiting = deque[tuple[Pooled, ...]]()  # each group is for one process
        self._workers: list[_Worker] = []
        self._asked: signal.Signals | None = None
        self._logs = itertools.count()
        self.slots, self.done = slots, 0

    def add(self, runs: Sequence[Pooled]) -> None:
        """Let more runs wait. One may need more shares of a CPU than were thought to be needed."""
        self._waiting += self._groups(runs)
        if (more := max([self.slots, *(run.devices for run in runs)])) > self.slots:
            self._free += range(self.slots, more)
            self.slots = more

    def _groups(self, runs: Sequence[Pooled]) -> Iterator[tuple[Pooled, ...]]:
        """Those that one process trains."""
        if self._options.shards is None:
            yield from ((run,) for run in runs)
            return
        in_turns = [run for run in runs if not run.is_launched]
        processes = len(self._free) or self.slots
        yield from (tuple(in_turns[first::processes]) for first in range(min(processes, len(in_turns))))
        yield from ((run,) for run in runs if run.is_launched)

    @property
    def active(self) -> int:
        """How many are at work, or wait for a device."""
        at_work = [worker.runs for worker in self._workers]
        return sum(map(len, [*at_work, *self._waiting]))

    def start_what_fits(self) -> None:
        """In their order: a run that needs several devices is not overtaken for ever."""
        while self._waiting and (count := self._waiting[0][0].devices) <= len(self._free):
            runs, devices = self._waiting.popleft(), tuple(self._free[:count])
            del self._free[:count]
            self._workers.append(self._start(runs, devices))
            for run in runs:
                on = "the CPU" if run.on_cpu else f"GPU {', '.join(map(str, devices))}"
                self._to.print(escape(f"{run.title}: running on {on}"), soft_wrap=True)

    def _start(self, runs: tuple[Pooled, ...], devices: tuple[int, ...]) -> _Worker:
        first = runs[0]
        module, words = "ftlab.engine.launch", [str(first.path)]
        if not first.is_launched:
            turns = ["--shards", str(self._options.shards or 1), "--failures", str(self._failures)]
            turns += ["--resident", str(self._options.resident)] if self._options.resident is not None else []
            module, words = "ftlab.engine.shards", [*turns, *(str(run.path) for run in runs)]
        log = self._failures / f"{next(self._logs)}.log"
        environment = os.environ | environment_of_devices(devices, self.slots, first.on_cpu)
        process = start(module, words, log, environment)
        return _Worker(process, runs, devices, log)

    def stop(self, asked_by: signal.Signals) -> None:
        """Let what is at work save and end, and begin nothing more."""
        self._waiting.clear()
        if self._asked != asked_by:
            self._asked = asked_by
            for worker in self._workers:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(asked_by)

    def ended(self) -> Iterator[tuple[Pooled, str | None]]:
        """Tell of the processes that have ended. Yield their runs, and why one failed."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            self._free = sorted([*self._free, *worker.devices])
            for run in worker.runs:
                self.done += 1
                if (why := self._failure(run, worker)) is None:
                    self._to.print(escape(f"{run.title}: {RunDir(run.path).manifest()['status']}"), soft_wrap=True)
                elif self._asked is None:
                    echo_error(f"{run.title} failed:\n{why}")
                yield run, why if self._asked is None else None

    def _failure(self, run: Pooled, worker: _Worker) -> str | None:
        """Why a run is not finished whose process has ended; None where it is, or has ended as its user asked."""
        why = why_not_finished(run.path, worker.process.returncode, worker.log)
        return why if why is None else Failures(self._failures).read(run.path) or why
