"""``hydra/launcher=gpus``: runs of a sweep in processes of their own, as many at once as this machine has devices.

What a process is handed are run directories: one, or, where those of a device take turns, several.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_error
from ftlab.distributed.sharding import needs_launch
from ftlab.distributed.world import driver_gpus, environment_of_devices, planned_devices, threads_of_rank
from ftlab.engine import tasks
from ftlab.engine.live_leaderboard import sweep_progress
from ftlab.engine.process import Interruption
from ftlab.engine.shards import Prepared, failure_name
from ftlab.errors import ConfigError, Mistake, RunDirError
from ftlab.preflight.directory import how_to_go_on
from ftlab.preflight.fit import TIGHT
from ftlab.preflight.memory import device_of, predict
from ftlab.rundir.directory import RunDir
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import Run
from ftlab.schema.launchers import Gpus

_PAUSE = 0.2  # seconds between two looks at the processes
_TAIL = 1 << 14  # bytes of what a process has printed that hold its last line


@dataclass(frozen=True)
class _Pooled(Prepared):
    """:param devices: that the run needs at once. :param is_launched: whether it starts processes of its own.
    :param on_cpu: whether its devices are shares of the cores. :param needed: bytes of one device, as predicted.
    :param memory: of one device; None where nobody knows.
    """

    devices: int
    is_launched: bool
    on_cpu: bool
    needed: float
    memory: float | None


def prepare(title: str, run: Run, overrides: Sequence[str], options: Gpus) -> _Pooled:
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
    return _Pooled(title, path, count, needs_launch(run), _gpus(run) is None, needed, device.memory)


def _gpus(run: Run) -> int | None:
    """Of this machine, for a run; None where it trains on the CPU."""
    return None if run.hardware.name == "cpu" else (driver_gpus() or None)


def train_all(runs: Sequence[_Pooled], options: Gpus, sweep: SweepDir, ended: Callable[..., None]) -> None:
    """Train the runs of a sweep. :param ended: is told of one that fails: ``ended(place, error=why)``. All others go
    on.

    :raises Interrupted: on a signal, when all that were at work have saved; says how to go on.
    """
    slots = options.devices or _slots(runs)
    to = Terminal(highlight=False, emoji=False)
    to.print(f"{len(runs)} configs, {slots} at a time", soft_wrap=True)
    with (
        Interruption(f"Interrupted. {how_to_go_on(sweep)}") as interruption,
        tempfile.TemporaryDirectory(prefix="ftlab-failures-") as failures,
        sweep_progress(to, sweep, len(runs), "configs") as bar,
    ):
        interruption.is_training = True  # the runs end their steps, and then this does
        pool = _Pool(runs, options, slots, Path(failures), to)
        while pool.is_left:
            if interruption.asked_by is not None:
                pool.stop(interruption.asked_by)
            pool.start_what_fits()
            time.sleep(_PAUSE)
            for place, why in pool.ended():
                ended(place, error=why)
            bar.update(pool.done)
        if interruption.requested:
            raise KeyboardInterrupt


def _slots(runs: Sequence[_Pooled]) -> int:
    """How many devices there are: GPUs, or, on a CPU, as many configs as there are cores and memory for."""
    gpus = driver_gpus()
    if gpus and not all(run.on_cpu for run in runs):
        return gpus
    most = min(threads_of_rank(1), len(runs))
    memory, needed = runs[0].memory, max(run.needed for run in runs)
    room = most if memory is None else int(TIGHT * memory // needed)
    return max(1, min(most, room), *(run.devices for run in runs))


@dataclass(frozen=True)
class _Worker:
    """A process. :param places: of the runs that it trains. :param devices: by number. :param log: what it prints."""

    process: subprocess.Popen[bytes]
    places: tuple[int, ...]
    devices: tuple[int, ...]
    log: Path


class _Pool:
    """Which runs wait, are at work and have ended. :ivar done: how many have ended."""

    def __init__(self, runs: Sequence[_Pooled], options: Gpus, slots: int, failures: Path, to: Terminal):
        self._runs, self._options, self._slots, self._failures, self._to = runs, options, slots, failures, to
        self._free = [*range(slots)]
        self._waiting = deque(self._groups())
        self._workers: list[_Worker] = []
        self._asked: signal.Signals | None = None
        self.done = 0

    def _groups(self) -> Iterator[tuple[int, ...]]:
        """Places of runs that one process trains."""
        if self._options.shards is None:
            yield from ((place,) for place in range(len(self._runs)))
            return
        in_turns = [place for place, run in enumerate(self._runs) if not run.is_launched]
        yield from (tuple(in_turns[first :: self._slots]) for first in range(min(self._slots, len(in_turns))))
        yield from ((place,) for place, run in enumerate(self._runs) if run.is_launched)

    @property
    def is_left(self) -> bool:
        return bool(self._waiting or self._workers)

    def start_what_fits(self) -> None:
        """In their order: a run that needs several devices is not overtaken for ever."""
        while self._waiting and (count := self._runs[self._waiting[0][0]].devices) <= len(self._free):
            places, devices = self._waiting.popleft(), tuple(self._free[:count])
            del self._free[:count]
            self._workers.append(self._start(places, devices))
            for place in places:
                on = "the CPU" if self._runs[place].on_cpu else f"GPU {', '.join(map(str, devices))}"
                self._to.print(escape(f"{self._runs[place].title}: running on {on}"), soft_wrap=True)

    def _start(self, places: tuple[int, ...], devices: tuple[int, ...]) -> _Worker:
        first = self._runs[places[0]]
        command = [sys.executable, "-m", "ftlab.engine.launch", str(first.path)]
        if not first.is_launched:
            turns = ["--shards", str(self._options.shards or 1), "--failures", str(self._failures)]
            turns += ["--resident", str(self._options.resident)] if self._options.resident is not None else []
            paths = [str(self._runs[place].path) for place in places]
            command = [sys.executable, "-m", "ftlab.engine.shards", *turns, *paths]
        log = self._failures / f"{places[0]}.log"
        environment = os.environ | environment_of_devices(devices, self._slots, first.on_cpu)
        with log.open("wb") as file:  # a session of its own: what Ctrl-C sends goes through this process alone
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        return _Worker(process, places, devices, log)

    def stop(self, asked_by: signal.Signals) -> None:
        """Let what is at work save and end, and begin nothing more."""
        self._waiting.clear()
        if self._asked != asked_by:
            self._asked = asked_by
            for worker in self._workers:
                with suppress(ProcessLookupError):
                    worker.process.send_signal(asked_by)

    def ended(self) -> Iterator[tuple[int, str]]:
        """Tell of the processes that have ended. Yield the places of runs that failed, and why."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            self._free = sorted([*self._free, *worker.devices])
            for place in worker.places:
                self.done += 1
                title = self._runs[place].title
                if (why := self._failure(place, worker)) is None:
                    self._to.print(escape(f"{title}: finished"), soft_wrap=True)
                elif self._asked is None:
                    echo_error(f"{title} failed:\n{why}")
                    yield place, why

    def _failure(self, place: int, worker: _Worker) -> str | None:
        """Why a run is not finished whose process has ended; None where it is."""
        path = self._runs[place].path
        try:
            manifest = RunDir(path).manifest()
        except RunDirError as error:
            return str(error)
        if manifest.get("status") == "finished":
            return None
        written = self._failures / failure_name(path)
        if written.is_file():
            return written.read_text(encoding="utf-8")
        code = worker.process.returncode
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        if manifest.get("status") == "failed":
            return str(manifest.get("error"))
        lines = worker.log.read_bytes()[-_TAIL:].decode("utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        return f"its process ended with exit code {code}: {last.strip()}"
