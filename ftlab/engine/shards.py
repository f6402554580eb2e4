"""``hydra/launcher=shards``: runs of a sweep in turns, in this process and on its device, over one base in memory.

Each is an ordinary run in a thread of its own (:mod:`ftlab.engine.turns`). Where there are more than fit, one whose
turn is over saves a checkpoint and leaves; in its next turn it goes on from there, as a run that was interrupted does.

``python -m ftlab.engine.shards RUN_DIR...`` does the same with run directories, as :mod:`ftlab.engine.pool` starts it.
"""

from __future__ import annotations

import argparse
import functools
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from ftlab.base.console import Terminal
from ftlab.base.heap import collect_seldom, use_one_heap
from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo_error
from ftlab.config import objectives
from ftlab.distributed.world import planned_nodes
from ftlab.engine import tasks
from ftlab.engine.compiling import ONE_AT_A_TIME
from ftlab.engine.early_stopping import Judge
from ftlab.engine.live_leaderboard import sweep_progress
from ftlab.engine.process import Interruption, die_with_parent
from ftlab.engine.session import Share
from ftlab.engine.shard_job import Job
from ftlab.engine.turns import TURNS, Turn
from ftlab.engine.work import Listed, Prepared, Work
from ftlab.errors import ConfigError, Interrupted, Mistake, RunDirError
from ftlab.preflight.directory import how_to_go_on
from ftlab.preflight.fit import size
from ftlab.preflight.sharing import Sharing, sharing_of
from ftlab.rundir.control import obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.failures import Failures
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import Run
from ftlab.schema.launchers import Shards

if TYPE_CHECKING:
    from ftlab.model.shared_base import SharedBases

_GLANCE = 0.2  # seconds between two looks at where the runs are
# Of the runs that are at work, those to stop, each with the reason.
_Decide = Callable[[Sequence["Job"]], dict["Job", str]]


def prepare(title: str, run: Run, overrides: Sequence[str], options: Shards) -> Prepared:
    """Check a run and make its directory.

    :param options: of the launcher; they say nothing about a single run.
    :raises FtlabError: it cannot run, or is somebody else's.
    """
    if planned_nodes(run.hardware) > 1:
        reason = "takes turns on one machine, and this config is trained on several; use hydra/launcher=slurm"
        raise ConfigError([Mistake("hydra/launcher", reason, "shards")])
    if run.train.compile != "none":
        raise ConfigError([Mistake("train.compile", ONE_AT_A_TIME, run.train.compile)])
    if options.stop != "none" and len(run.phases) > 1:
        reason = "compares steps of one phase, and this config has several; use none"
        raise ConfigError([Mistake("hydra.launcher.stop", reason, options.stop)])
    return Prepared(title, tasks.prepare(run, overrides, is_here=True).path)


def train_all(work: Work[Prepared], options: Shards, sweep: SweepDir) -> None:
    """Train the runs of a sweep in turns. One that fails or is stopped early is recorded; the others go on.

    :raises Interrupted: on a signal, when all of them have saved what they have come to; says how to go on.
    """
    judge = None if options.stop == "none" else _judge(options, sweep)
    take_turns(work, options, f"Interrupted. {how_to_go_on(sweep)}", judge, sweep)


def _judge(options: Shards, sweep: SweepDir) -> _Decide:
    """Of the runs that are at work now, those to stop, each with the reason."""
    asked = sweep.journal().objectives
    if len(asked) > 1:
        reason = f"compares by one objective, and {objectives.KEY} names {len(asked)}; use none, or name one"
        raise ConfigError([Mistake("hydra.launcher.stop", reason, options.stop)])
    folders = lambda: {number: sweep.run_dir(job) for number, job in sweep.records().items()}  # noqa: E731
    judges: list[Judge] = []  # one, once there is a run that says what its stage measures

    def decide(jobs: Sequence[Job]) -> dict[Job, str]:
        numbers = {path.absolute(): number for number, path in folders().items()}
        own = {numbers[job.run.path.absolute()]: job for job in jobs}
        if not judges:
            objective = asked[0] if asked else objectives.default(jobs[0].configs[0])
            together = [number for number, job in own.items() if not job.share.turn.is_watched]
            judges.append(Judge(options, objective, folders, together))
        return {own[number]: why for number, why in judges[0].judge(own).items()}

    return decide


def take_turns(
    work: Work[Prepared], options: Shards, message: str, judge: _Decide | None = None, sweep: SweepDir | None = None
) -> None:
    """:param message: of the error that is raised when a signal has stopped them. :param judge: says which runs are to
    be stopped early, whenever a turn has ended. :param sweep: whose leaderboard is shown meanwhile.
    """
    quiet_libraries()
    use_one_heap()
    to = Terminal(highlight=False, emoji=False)
    with Interruption(message) as interruption:
        here = _Process(work, options, judge, to)
        here.take()
        interruption.is_training = True  # the runs end their steps, and then this does
        with sweep_progress(to, sweep, work.count * options.shards, "turns") as bar:
            while here.jobs or (work.is_open and not interruption.requested):
                here.work_on(TURNS.next_without_thread(_GLANCE), interruption.requested)
                here.tell()
                here.let_leave(interruption.requested)
                bar.expect(work.count * options.shards)
                bar.update(here.turns_taken)
        TURNS.places = None
        if here.is_stopped or (interruption.requested and work.is_open):
            raise KeyboardInterrupt


class _Process:
    """The runs that are at work in this process.

    :ivar jobs: those that have not left. :ivar is_stopped: a signal has ended one of them.
    """

    def __init__(self, work: Work[Prepared], options: Shards, judge: _Decide | None, to: Terminal):
        self._work, self._options, self._judge, self._to = work, options, judge, to
        self._judging = threading.Lock()  # a run that has ended is judged while the next has its turn
        self._more_will_come: bool | None = None  # as it is known after the first
        self._over: set[Path] = set()
        self.jobs: list[Job] = []
        self.is_stopped = False

    @functools.cached_property
    def _bases(self) -> SharedBases:
        from ftlab.model.shared_base import SharedBases  # which imports torch: no config is checked after that

        return SharedBases()

    def take(self, place: Turn | None = None) -> None:
        """Add the runs that have come. :param place: that a run has left, which the first of them gets."""
        runs = self._work.take(len(self.jobs))
        # Those that are all there at the beginning wait for each other at each rung, and need not end turns when alone.
        is_watched = self._judge is not None and (self._more_will_come is not None or self._work.is_open)
        for run in runs:
            count = self._options.shards
            turn, place = (TURNS.reserve(count) if place is None else TURNS.replace(place, count)), None
            turn.when_over, turn.is_watched = self._dismiss, is_watched
            self._over.discard(run.path)
            self.jobs.append(Job(run, Share(turn, self._bases.load), count, self._to))
        if place is not None:
            TURNS.cancel(place)
        if runs:
            self._plan()

    def _plan(self) -> None:
        """Find out what the runs share, and how many of them fit."""
        is_first, is_open = self._more_will_come is None, self._work.is_open
        if self._more_will_come is None:
            self._more_will_come = is_open
        sharing = sharing_of([job.configs for job in self.jobs], self._more_will_come)
        self._bases.shared = sharing.shared
        launched = sum(job.is_launched for job in self.jobs)
        # What processes of their own need of a device, no other may have meanwhile.
        TURNS.places = 1 if launched else min(self._options.resident or sharing.places, len(self.jobs))
        for job in self.jobs:
            job.share.turn.keeps_place = is_open
        if is_first:
            line = _plan_line(sharing, TURNS.places, self._options.shards, self._work.count)
            if launched:
                line += f"; {launched} in processes of their own, which begin anew with each turn"
            self._to.print(escape(line), soft_wrap=True)

    def _dismiss(self) -> None:
        if self._judge is not None:
            with self._judging:
                for job, why in self._judge([*self.jobs]).items():
                    job.dismiss(why)

    def work_on(self, turn: Turn | None, is_interrupted: bool) -> None:
        """Let the run go on whose turn has come, unless it is to stop."""
        for job in [job for job in self.jobs if job.share.turn is turn]:
            if is_interrupted or job.share.turn.is_dismissed:
                job.stop()
            else:
                job.start()

    def tell(self) -> None:
        """What has become of the runs since the last time."""
        for job in self.jobs:
            self._tell(job)

    def _tell(self, job: Job) -> None:
        job.tell()
        for why in job.take_ends():
            self._work.record(job.run, **why)

    def let_leave(self, is_interrupted: bool) -> None:
        """Let the runs leave that have ended, and others come. That is one by one, in the order in which they ended:
        what is known when the next is chosen does not depend on how fast this is."""
        ended = [job for job in self.jobs if not job.is_left]
        for job in sorted(ended, key=lambda job: job.share.turn.place_at_end or 0):
            if not job.is_over:
                break  # its thread is about to end
            self._tell(job)
            self.jobs.remove(job)
            self._over.add(job.run.path)
            self.is_stopped |= job.is_stopped
            self._work.leave(job.run)
            if is_interrupted:
                TURNS.cancel(job.share.turn)
            else:
                self.take(job.share.turn)
        if not is_interrupted:
            self.take()

    @property
    def turns_taken(self) -> int:
        at_work = sum(job.turns_taken(self._options.shards) for job in self.jobs)
        return at_work + self._options.shards * len(self._over)


def _plan_line(sharing: Sharing, places: int, shards: int, count: int) -> str:
    """:param count: of all runs that there are to be."""
    at_once = f", {sharing.runs} at a time" if count > sharing.runs else ""
    many = f"{count} configs take turns{at_once}, {shards} each"
    about = f"about {size(sharing.needed(places))} at the peak"
    if sharing.bases:
        about += f", with the base in memory once ({size(sharing.bases)}) and {size(sharing.each)} for each config"
    if sharing.memory is not None:
        about += f", of {size(sharing.memory)}"
    if places < sharing.runs:
        about += f"; {places} of them in memory at a time, the others on the disk, as checkpoints"
    return f"{many}: {about}"


def main() -> int:
    """Train the runs of some directories in turns, but for those that are over, as where a job of a cluster begins
    again. Return 1 where one failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.shards", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--shards", type=int, required=True, help="turns that the steps of each are divided into")
    parser.add_argument("--resident", type=int, help="runs in memory at once, at most")
    parser.add_argument("--failures", type=Path, required=True, help="a folder for why those failed that did")
    given = parser.parse_args()
    die_with_parent()
    collect_seldom()
    failures = Failures(given.failures)
    runs = [Prepared(str(path), path) for path in given.run_dirs if _is_left(path, failures)]
    options = Shards(shards=given.shards, resident=given.resident, stop="none", factor=2)
    try:
        if runs:
            take_turns(Listed(runs, lambda run, error: failures.write(run.path, error)), options, "Interrupted.")
    except Interrupted as error:
        return error.exit_code
    return 1 if any(failures.read(path) is not None for path in given.run_dirs) else 0


def _is_left(path: Path, failures: Failures) -> bool:
    """Whether there is something to do for a run. That its directory is damaged is its failure."""
    if failures.read(path) is not None:
        return False
    try:
        run_dir = RunDir.open(path)
        run_dir.plan()
        return run_dir.manifest().get("status") != "finished" and obeyed_state(path) is None
    except RunDirError as error:
        failures.write(path, str(error))
        echo_error(f"{path} failed:\n{error}")
        return False


if __name__ == "__main__":
    sys.exit(main())
