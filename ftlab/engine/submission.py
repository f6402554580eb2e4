"""Runs that are trained by jobs of a cluster: checked and claimed here, handed over as run directories, waited for."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo
from ftlab.distributed.sharding import needs_launch
from ftlab.distributed.world import planned_layout
from ftlab.engine import tasks
from ftlab.engine.summary import next_lines
from ftlab.engine.work import Prepared, Work
from ftlab.errors import ConfigError, JobFailedError, Mistake, NotReadyError
from ftlab.rundir.claim import choose_remaining_phases, hold, named_folder
from ftlab.rundir.control import STOPPED, obeyed_state
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.start_folder import start_folder
from ftlab.rundir.submission import Submission, SubmissionFiles
from ftlab.rundir.sweep import SweepDir
from ftlab.schema import Hardware, Run
from ftlab.slurm import commands
from ftlab.slurm.options import Options
from ftlab.slurm.outcome import failure
from ftlab.slurm.script import Batch, Resources, check_submitit, check_template, script
from ftlab.slurm.waiting import Waited, wait

# What a task runs, followed by the run directory: one that is a rank, or the only process; one that starts the ranks of
# its node. Of several nodes the second knows more when one is gone. The third takes several runs, which take turns.
_RANK, _NODE, _TURNS = "ftlab.engine.worker", "ftlab.engine.launch", "ftlab.engine.shards"


@dataclass(frozen=True)
class Submittable(Prepared):
    """A run that is ready to be submitted. :param submission: the job that it has in the queue already."""

    submission: Submission | None = None


def check_ready(options: Options) -> None:
    """What keeps every job from being submitted, before anything is written.

    :raises ConfigError: the user's template has no place for the run.
    :raises NotReadyError: submitit or Slurm is not installed.
    """
    if options.template is not None:
        check_template(options.template)
    check_submitit()
    if not options.dry_run:
        commands.check_installed()


def submit(run: Run, overrides: Sequence[str], options: Options) -> None:
    """Let a job of the cluster train a run, or go on with one, and wait for it.

    :raises JobFailedError: it did not come to its end. :raises Interrupted: the user no longer waits.
    """
    check_ready(options)
    prepared = _resumed(run) if run.task.name == "resume" else prepare("", run, overrides, options)
    try:
        (waited,) = run_all([prepared], options, prepared.path)
    except NotReadyError:
        is_named = run.task.name == "resume" or run.run.name is not None or run.run.dir is not None
        if not is_named and SubmissionFiles(prepared.path).read() is None:
            RunDir(prepared.path).remove()  # the mended command makes another
        raise
    if waited is None:
        return
    if waited.failure is not None:
        go_on = f"Go on with the same command, or with: ftlab resume {shlex.quote(str(prepared.path))}"
        raise JobFailedError(f"{prepared.path} is not finished: {waited.failure}\n{go_on}")
    to = Terminal(highlight=False, emoji=False)
    for line in next_lines(prepared.path, RunDir(prepared.path).plan()):
        to.print(line, soft_wrap=True)


def prepare(title: str, run: Run, overrides: Sequence[str], options: Options) -> Submittable:
    """Check a run and make its directory, unless its job is in the queue already.

    :raises FtlabError: it cannot run, or is somebody else's.
    """
    path = named_folder(run.run)
    if path is not None and run.run.if_exists == "resume" and (submission := _in_queue(path)) is not None:
        return Submittable(title or path.name, path, submission)
    _resources([run.hardware], options)
    run_dir = tasks.prepare(run, overrides)
    return Submittable(title or run_dir.path.name, run_dir.path)


def _resumed(run: Run) -> Submittable:
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "ftlab resume needs the run directory: ftlab resume outputs/my-run")])
    path = Path(run.run.dir).expanduser()
    run_dir = RunDir.open(path)
    if (submission := _in_queue(run_dir.path)) is None:
        with hold(run_dir):
            choose_remaining_phases(run_dir)
    return Submittable(run_dir.path.name, run_dir.path, submission)


def _in_queue(path: Path) -> Submission | None:
    """The job that is to train in a run directory and has not ended."""
    submission = SubmissionFiles(path).read()
    if submission is None:
        return None
    state = commands.states([submission.job]).get(submission.job)
    return submission if state is not None and state.is_active else None


def run_all(runs: Sequence[Submittable], options: Options, name: Path) -> list[Waited | None]:
    """Submit what is not in the queue, and wait for all of it.

    :param name: the sweep or run by which the user knows them.
    :return: how each did; None under ``dry_run``. :raises NotReadyError: ``sbatch`` refuses.
    :raises Interrupted: the user no longer waits.
    """
    submissions = {one.path.absolute(): one.submission for one in runs if one.submission is not None}
    for one in runs:
        if one.submission is not None:
            echo(f"{one.title}: is in the queue already, as job {one.submission.job}")
    for batch in _batches([one.path for one in runs if one.submission is None], options):
        submissions.update(_submit(batch, options))
    if options.dry_run:
        return [None] * len(runs)
    jobs = [(one.title, submissions[one.path.absolute()]) for one in runs]
    return wait(jobs, lambda index, state: failure(runs[index].path, jobs[index][1], state), name)


def train_all(work: Work[Submittable], options: Options, sweep: SweepDir) -> None:
    """As :func:`run_all`, for a launcher. Those that failed are recorded."""
    runs = work.take(0)
    for run, waited in zip(runs, run_all(runs, options, sweep.path)):
        if (state := obeyed_state(run.path)) == "stopped":
            work.record(run, stopped=STOPPED)
        elif waited is not None and waited.failure is not None and state is None:
            work.record(run, error=waited.failure)
        work.leave(run)


def _batches(paths: Sequence[Path], options: Options) -> Iterator[Batch]:
    """Runs that want the same of the cluster, together."""
    groups: dict[tuple[Resources, Path], list[Path]] = {}
    for path in paths:
        run_dir = RunDir(path)
        configs = [phase.config for phase in run_dir.plan().phases]
        is_launched = any(map(needs_launch, configs))
        resources = _resources([config.hardware for config in configs], options, is_launched)
        wanted = resources, (start_folder(run_dir) or Path.cwd()).absolute()
        groups.setdefault(wanted, []).append(path.absolute())
    for (resources, start), members in groups.items():
        folder = SubmissionFiles(members[0]).folder
        if options.submitit_folder is not None:
            folder = _without_ids(Path(options.submitit_folder).expanduser().absolute())
        python = shlex.split(options.python) if options.python is not None else [sys.executable]
        command, per_job = [shlex.quote(word) for word in (*python, "-m", resources.module)], 1
        if resources.module == _TURNS:
            command += _turns(options)
            per_job = options.configs_per_job or 1
        yield Batch(tuple(members), resources, tuple(command), start, folder, per_job)


def _turns(options: Options) -> list[str]:
    """What a job is told of the turns that its runs take."""
    words = ["--shards", str(options.shards), "--failures", '"$files.failures"']
    return words + (["--resident", str(options.resident)] if options.resident is not None else [])


def _without_ids(folder: Path) -> Path:
    """The part of a folder's name that does not wait for the id of a job, as ``.submitit/%j`` does."""
    parts = folder.parts
    return Path(*parts[: next((i for i, part in enumerate(parts) if "%" in part), len(parts))])


def _resources(hardware: Sequence[Hardware], options: Options, is_launched: bool = False) -> Resources:
    """:param hardware: of each phase; the job has what the largest needs. :param is_launched: whether even the only
    process of a run is started by the launcher.

    :raises ConfigError: the launcher's keys contradict those of the run's hardware, which are their one home.
    """
    nodes, devices, are_gpus = map(max, zip(*map(planned_layout, hardware)))
    mistakes = []
    if options.nodes not in (None, nodes):
        mistakes.append(
            Mistake("hydra.launcher.nodes", f"contradicts hardware.nodes={nodes}; leave it out", options.nodes)
        )
    if options.tasks_per_node not in (1, devices):
        reason = f"must be 1, or hardware.devices={devices} for a task for each rank"
        mistakes.append(Mistake("hydra.launcher.tasks_per_node", reason, options.tasks_per_node))
    if not options.use_srun and nodes * options.tasks_per_node > 1:
        mistakes.append(Mistake("hydra.launcher.use_srun", "several nodes or tasks are started by srun", "false"))
    if mistakes:
        raise ConfigError(mistakes)
    is_asked = options.gres is not None or options.gpus_per_task is not None or not are_gpus
    gpus = options.gpus_per_node if options.gpus_per_node is not None else None if is_asked else devices
    is_alone = nodes == devices == 1 and not is_launched
    is_rank = devices == options.tasks_per_node and (devices > 1 or is_alone)
    module = _TURNS if is_alone and options.configs_per_job is not None else _RANK if is_rank else _NODE
    return Resources(nodes, options.tasks_per_node, gpus, module)


def _submit(batch: Batch, options: Options) -> dict[Path, Submission]:
    """Write the script and hand it to ``sbatch``. :return: the job of each run, by its absolute path."""
    names, count = [run.name for run in batch.runs], len(batch.jobs)
    name = names[0] if len(names) == 1 else f"{names[0]}-to-{names[-1]}"
    file = batch.folder / f"{name}.sh"
    write_atomic(file, script(options, batch))
    shown = Path(os.path.relpath(file))
    if options.dry_run:
        echo(f"Nothing is submitted. The script is {shown}, for: sbatch {shlex.quote(str(shown))}")
        return {}
    try:
        job = commands.submit(file)
    except NotReadyError as error:
        raise NotReadyError(f"{error}\nThe script is {shown}.") from None
    jobs = [job] if not batch.is_array else [f"{job}_{index}" for index in range(count)]
    array = f", an array of {count}" if batch.is_array else ""
    turns = f", for {len(names)} configs in turns" if count < len(names) else ""
    echo(f"Submitted job {job}{array}{turns}: {shown}")
    submitted = {}
    for path, one in ((path, one) for one, runs in zip(jobs, batch.jobs) for path in runs):
        log = batch.folder / f"{one}_0_log"
        errors = log.with_suffix(".out" if options.stderr_to_stdout else ".err")
        submission = Submission(
            job=one, script=str(file), folder=str(batch.folder), stdout=str(log.with_suffix(".out")), stderr=str(errors)
        )
        SubmissionFiles(path).write(submission)
        submitted[path] = submission
    return submitted
