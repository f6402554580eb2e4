"""``hydra/launcher=shards``: runs of a sweep in turns, in this process and on its device, over one base in memory.

Each is an ordinary run in a thread of its own (:mod:`ftlab.engine.turns`). Where there are more than fit, one whose
turn is over saves a checkpoint and leaves; in its next turn it goes on from there, as a run that was interrupted does.

``python -m ftlab.engine.shards RUN_DIR...`` does the same with run directories, as :mod:`ftlab.engine.pool` starts it.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from ftlab.base.console import Terminal
from ftlab.base.numbers import readable
from ftlab.base.terminal import echo_error
from ftlab.config import objectives
from ftlab.distributed.sharding import needs_launch
from ftlab.engine import tasks
from ftlab.engine.early_stopping import Judge
from ftlab.engine.live_leaderboard import sweep_progress
from ftlab.engine.process import Interruption, die_with_parent, quiet_libraries
from ftlab.engine.session import Share
from ftlab.engine.turns import TURNS
from ftlab.errors import ConfigError, FtlabError, Interrupted, Mistake, RunDirError
from ftlab.preflight.directory import how_to_go_on
from ftlab.preflight.fit import size
from ftlab.preflight.sharing import Sharing, sharing_of
from ftlab.rundir.claim import choose_remaining_phases, hold
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import Run
from ftlab.schema.launchers import Shards

_GLANCE = 0.2  # seconds between two looks at where the runs are


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin or to go on. :param title: under which it is told of. :param path: its directory."""

    title: str
    path: Path


def prepare(title: str, run: Run, overrides: Sequence[str], options: Shards) -> Prepared:
    """Check a run and make its directory.

    :param options: of the launcher; they say nothing about a single run.
    :raises FtlabError: it cannot run, or is somebody else's.
    """
    if needs_launch(run):
        reason = "takes turns in one process, and this config is trained by several; use hydra/launcher=basic"
        raise ConfigError([Mistake("hydra/launcher", reason, "shards")])
    if options.stop != "none" and len(run.phases) > 1:
        reason = "compares steps of one phase, and this config has several; use none"
        raise ConfigError([Mistake("hydra.launcher.stop", reason, options.stop)])
    return Prepared(title, tasks.prepare(run, overrides, is_here=True).path)


def train_all(runs: Sequence[Prepared], options: Shards, sweep: SweepDir, ended: Callable[..., None]) -> None:
    """Train the runs of a sweep in turns. :param ended: is told, by its place, of one that fails, ``ended(place,
    error=why)``, and of one that is stopped early, ``ended(place, stopped=why)``; the others go on.

    :raises Interrupted: on a signal, when all of them have saved what they have come to; says how to go on.
    """
    judge = None if options.stop == "none" else _judge(runs, options, sweep)
    take_turns(runs, options, f"Interrupted. {how_to_go_on(sweep)}", ended, judge, sweep)


def _judge(runs: Sequence[Prepared], options: Shards, sweep: SweepDir) -> Callable[[Sequence[_Job]], dict[int, str]]:
    """Of the runs that are trained now, those to stop, by their place."""
    folders = lambda: {number: sweep.run_dir(job) for number, job in sweep.records().items()}  # noqa: E731
    numbers = {path.absolute(): number for number, path in folders().items()}
    own = [numbers[run.path.absolute()] for run in runs]
    asked = sweep.journal().objectives
    if len(asked) > 1:
        reason = f"compares by one objective, and {objectives.KEY} names {len(asked)}; use none, or name one"
        raise ConfigError([Mistake("hydra.launcher.stop", reason, options.stop)])
    objective = asked[0] if asked else objectives.default(RunDir(runs[0].path).plan().phases[0].config)
    judge = Judge(options, objective, folders)

    def decide(jobs: Sequence[_Job]) -> dict[int, str]:
        found = judge.judge(dict(zip(own, jobs)))
        return {own.index(number): why for number, why in found.items()}

    return decide


def take_turns(
    runs: Sequence[Prepared], options: Shards, message: str, ended: Callable[..., None],
    judge: Callable[[Sequence[_Job]], dict[int, str]] | None = None, sweep: SweepDir | None = None,
) -> None:  # fmt: skip
    """:param message: of the error that is raised when a signal has stopped them. :param judge: says which runs are to
    be stopped early, whenever a turn has ended. :param sweep: whose leaderboard is shown meanwhile.
    """
    from ftlab.engine.run import phases_to_run
    from ftlab.model.shared_base import SharedBases

    quiet_libraries()
    configs = [[phase.config for phase in phases_to_run(RunDir(one.path))] for one in runs]
    sharing = sharing_of(configs)
    TURNS.places = min(options.resident or sharing.places, len(runs))
    to = Terminal(highlight=False, emoji=False)
    to.print(escape(_plan_line(sharing, TURNS.places, options.shards)), soft_wrap=True)
    load = SharedBases(config for phases in configs for config in phases).load
    jobs = [_Job(one, Share(TURNS.reserve(options.shards), load), to) for one in runs]

    def dismiss() -> None:
        for place, why in judge(jobs).items() if judge is not None else ():
            jobs[place].dismiss(why)

    for job in jobs:
        job.share.turn.when_over = dismiss

    def tell() -> None:
        for index, job in enumerate(jobs):
            job.tell()
            for why in job.take_ends():
                ended(index, **why)

    total = len(jobs) * options.shards
    with Interruption(message) as interruption, sweep_progress(to, sweep, total, "turns") as bar:
        interruption.is_training = True  # the runs end their steps, and then this does
        while any(job.is_left for job in jobs):
            turn = TURNS.next_without_thread(_GLANCE)
            for job in [job for job in jobs if job.share.turn is turn]:
                if interruption.requested or job.share.turn.is_dismissed:
                    job.stop()
                else:
                    job.start()
            tell()
            bar.update(sum(job.turns_taken(options.shards) for job in jobs))
        tell()  # how the last of them ended, which may have been since
        TURNS.places = None
        if any(job.is_stopped for job in jobs):
            raise KeyboardInterrupt


def _plan_line(sharing: Sharing, places: int, shards: int) -> str:
    many = f"{sharing.runs} configs take turns, {shards} each"
    about = f"about {size(sharing.needed(places))} at the peak"
    if sharing.bases:
        about += f", with the base in memory once ({size(sharing.bases)}) and {size(sharing.each)} for each config"
    if sharing.memory is not None:
        about += f", of {size(sharing.memory)}"
    if places < sharing.runs:
        about += f"; {places} of them in memory at a time, the others on the disk, as checkpoints"
    return f"{many}: {about}"


class _Job:
    """One of the runs. :ivar is_stopped: a signal has ended it. :ivar is_left: it has not come to an end."""

    def __init__(self, prepared: Prepared, share: Share, to: Terminal):
        self.share = share
        self._prepared, self._to = prepared, to
        self._thread: threading.Thread | None = None
        self._ends: list[dict[str, str]] = []
        self._dismissal: str | None = None
        self._told = 0  # the step that was told last
        self.is_stopped, self.is_left = False, True

    def start(self) -> None:
        """Begin, or go on with, the run, whose turn it is."""
        self._join()
        self._thread = threading.Thread(target=self._work, name=str(self._prepared.path), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End a run that has no place in memory now."""
        self._join()
        self.is_stopped = self._dismissal is None
        if self._dismissal is not None:
            run_dir = RunDir(self._prepared.path)
            with hold(run_dir):
                self._record_stop(run_dir)
        self.is_left = False
        TURNS.cancel(self.share.turn)

    def _join(self) -> None:
        """Wait for the thread of a run that has left its place, and may be closing its files."""
        if self._thread is not None:
            self._thread.join()

    def _record_stop(self, run_dir: RunDir) -> None:
        if self._dismissal is not None:
            Manifest(run_dir).record(status="stopped")

    def dismiss(self, why: str) -> None:
        """Let the run stop at its next chance: others do better."""
        self._dismissal = why
        self.share.turn.is_dismissed = True
        self._ends.append({"stopped": why})
        self._to.print(escape(f"{self._prepared.title}: stopped by {why}"), soft_wrap=True)

    @property
    def steps(self) -> int:
        return self.share.turn.steps

    @property
    def ended(self) -> int:
        return self.share.turn.ended

    def _work(self) -> None:
        from ftlab.engine.run import execute

        turn, run_dir = self.share.turn, RunDir(self._prepared.path)
        try:
            with hold(run_dir):
                choose_remaining_phases(run_dir)
                try:
                    execute(run_dir, share=self.share)
                except Interrupted:
                    self._record_stop(run_dir)
                    raise
                finally:
                    turn.when_over()  # of a run that is over, or has left
        except Interrupted:
            self.is_stopped = not turn.is_given_up and self._dismissal is None
        except FtlabError as error:
            self._fail(str(error), str(error))
        except BaseException as error:  # a user's reward may call sys.exit
            self._fail(f"{type(error).__name__}: {error}", traceback.format_exc())
        gc.collect()  # a trainer, its model and its callbacks know each other
        if not turn.is_given_up:
            self.is_left = False
            TURNS.cancel(turn)

    def _fail(self, why: str, told: str) -> None:
        self.share.turn.is_given_up = False
        self._ends.append({"error": why})
        echo_error(f"{self._prepared.title} failed:\n{told}")

    def take_ends(self) -> list[dict[str, str]]:
        """Why it failed or was stopped, once."""
        ends, self._ends = self._ends, []
        return ends

    def turns_taken(self, count: int) -> int:
        turn = self.share.turn
        return count if not self.is_left else count * turn.step // max(turn.steps, 1)

    def tell(self) -> None:
        """A line, where a turn has ended since the last."""
        turn = self.share.turn
        if turn.ended == self._told:
            return
        self._told = turn.ended
        loss = ""
        try:
            last = RunDir(self._prepared.path).read_last_metrics() or {}
        except RunDirError:  # which ends the run itself, or is put right by it
            last = {}
        if isinstance(last.get("loss"), float):
            loss = f", loss {readable(last['loss'])}"
        self._to.print(escape(f"{self._prepared.title}: step {turn.ended} of {turn.steps}{loss}"), soft_wrap=True)


def main() -> int:
    """Train the runs of some directories in turns. Return 1 where one failed, else 0."""
    parser = argparse.ArgumentParser(prog="python -m ftlab.engine.shards", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--shards", type=int, required=True, help="turns that the steps of each are divided into")
    parser.add_argument("--resident", type=int, help="runs in memory at once, at most")
    parser.add_argument("--failures", type=Path, required=True, help="a folder for why those failed that did")
    given = parser.parse_args()
    die_with_parent()
    runs = [Prepared(str(path), path) for path in given.run_dirs]
    failures: list[int] = []

    def failed(place: int, error: str) -> None:
        failures.append(place)
        write_atomic(given.failures / failure_name(runs[place].path), error)

    options = Shards(shards=given.shards, resident=given.resident, stop="none", factor=2)
    try:
        take_turns(runs, options, "Interrupted.", failed)
    except Interrupted as error:
        return error.exit_code
    return 1 if failures else 0


def failure_name(run_dir: Path) -> str:
    """The file that says why a run failed."""
    return hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
