"""How a process begins to work on a run: it makes or finds the directory, takes its lock, and only then writes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from ftlab.base.redaction import mask_secrets
from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import MERGED, weights
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.identity import identity_of_phase
from ftlab.rundir.lock import RunLock
from ftlab.rundir.names import LATEST
from ftlab.rundir.plan import Phase, Plan


@contextmanager
def claim(plan: Plan) -> Iterator[RunDir]:
    """The directory of a new run, or the one that ``plan`` continues, for this process alone; its run.yaml is written.

    :raises RunDirError: it cannot be written, is somebody else's, holds another run, or a process is at work in it.
    """
    run_dir = _directory(plan)
    with ExitStack() as stack:
        stack.enter_context(hold(run_dir))
        try:
            _write_down(run_dir, plan)
        except BaseException:
            if not _is_taken(run_dir):
                run_dir.remove()
            raise
        yield run_dir


@contextmanager
def hold(run_dir: RunDir) -> Iterator[None]:
    """Hold the lock of a run directory.

    :raises RunDirError: a process is at work in it, or it cannot be written.
    """
    with RunLock(run_dir.path):
        yield


def choose_remaining_phases(run_dir: RunDir) -> None:
    """Where the phases that ``run.phases`` chose are done and others are left, those are chosen. The lock is held."""
    plan, done = run_dir.plan(), run_dir.manifest().get("phases", {})
    chosen = plan.phases[0].config.run.phases
    if chosen is None or not {*chosen} <= {*done} or all(phase.name in done for phase in plan.phases):
        return
    phases = []
    for phase in plan.phases:
        keys = phase.config.run.model_copy(update={"phases": None})
        phases.append(phase.model_copy(update={"config": phase.config.model_copy(update={"run": keys})}))
    _write(run_dir, plan.model_copy(update={"phases": tuple(phases)}))


def _directory(plan: Plan) -> RunDir:
    """The folder of a run, made where it is new.

    :raises RunDirError: it cannot be made, or ``run.if_exists`` refuses what is there.
    """
    keys = plan.phases[0].config.run
    if keys.dir is None and keys.name == LATEST:
        raise RunDirError(f"outputs/{LATEST} is a link to the run that was started last. Choose another run.name.")
    if keys.dir is None and keys.name is None:
        return _new_directory(Path("outputs") / f"{plan.title}-{time.strftime('%Y%m%d-%H%M%S')}")
    path = Path(keys.dir) if keys.dir is not None else Path("outputs") / str(keys.name)
    if _is_taken(RunDir(path)):
        if keys.if_exists == "refuse":
            raise RunDirError(f"{path} exists. run.if_exists=resume continues it, run.if_exists=new makes another.")
        return RunDir.open(path) if keys.if_exists == "resume" else _new_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from None
    return RunDir(path)


def _new_directory(path: Path) -> RunDir:
    """A folder that nobody else has: making it is what claims it, or the same name with a number behind it."""
    candidate, number = path, 2
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                candidate.mkdir()
                return RunDir(candidate)
            except FileExistsError:
                candidate = path.with_name(f"{path.name}-{number}")
                number += 1
    except OSError as error:
        raise _not_writable(candidate, error) from None


def _is_taken(run_dir: RunDir) -> bool:
    """Whether something is here, or is about to be. A first start that was killed while it wrote run.yaml has left
    nothing."""
    if not run_dir.path.is_dir():
        return run_dir.path.exists()
    left = {run_dir.lock, *run_dir.path.glob(f".{run_dir.run_yaml.name}.*.tmp")}
    return bool(set(run_dir.path.iterdir()) - left)


def _write_down(run_dir: RunDir, plan: Plan) -> None:
    """Write run.yaml, unless the run is finished.

    :raises RunDirError: the folder is somebody else's, or holds another run.
    """
    if not _is_taken(run_dir):
        _write(run_dir, plan)
        return
    run_dir = RunDir.open(run_dir.path)
    if run_dir.has_begun:
        _check_identity(run_dir, plan)
    if run_dir.manifest().get("status") != "finished":
        _write(run_dir, plan)  # what may differ is taken from the newer command


def _write(run_dir: RunDir, plan: Plan) -> None:
    """:raises RunDirError: it cannot be written, or not without a secret that the run would need."""
    text = _yaml(plan)
    for ours, written in zip(plan.phases, Plan.model_validate(yaml.safe_load(text)).phases):
        kept = identity_of_phase(written)
        for key, value in identity_of_phase(ours).items():
            if kept[key] != value:
                raise RunDirError(
                    f"{key} holds what looks like a secret: run.yaml would have {kept[key]!r}, and a run reads its "
                    "config from there. Secrets come from the environment."
                )
    try:
        write_atomic(run_dir.run_yaml, text)
    except OSError as error:
        raise _not_writable(run_dir.path, error) from None


def _check_identity(run_dir: RunDir, plan: Plan) -> None:
    """:raises RunDirError: the directory holds another run than ``plan``; what differs is named."""
    plan = Plan.model_validate(yaml.safe_load(_yaml(plan)))  # as it would be written: without secrets
    here = run_dir.plan()
    ours, theirs = ({phase.name: identity_of_phase(phase) for phase in p.phases} for p in (here, plan))
    # Nothing is lost of a phase of a curriculum that has no weights: it may be mended, and then begins anew. So may one
    # that is a run of its own, and was not even measured.
    may_change = len(here.phases) > 1 or not (run_dir.metrics.is_file() or run_dir.final.is_dir())
    fresh = [phase for phase in here.phases if may_change and not _is_trained(run_dir, phase)]
    different = [
        f"  - {f'phases.{name}.' if len(theirs) > 1 else ''}{key}: {ours[name].get(key)} there, {value} here"
        for name in ours.keys() & theirs.keys() - {phase.name for phase in fresh}
        for key, value in theirs[name].items()
        if ours[name].get(key) != value
    ]
    if [*ours] != [*theirs] or different:
        raise RunDirError(
            "\n".join([f"{run_dir.path} holds another run:", *(different or [f"  - phases: {', '.join(ours)} there"])])
            + "\nrun.if_exists=new starts beside it; another run.name or run.dir starts elsewhere."
        )
    for phase in fresh:
        if ours[phase.name] != theirs[phase.name]:
            _forget(run_dir, phase)


def _is_trained(run_dir: RunDir, phase: Phase) -> bool:
    """Whether the phase has weights, if only those of a torn checkpoint. What it merged to begin with are none."""
    folder = run_dir.phase(phase.folder)
    trained = (path for path in weights(folder) if path.relative_to(folder).parts[0] not in MERGED)
    return phase.name in run_dir.manifest().get("phases", {}) or any(trained)


def _forget(run_dir: RunDir, phase: Phase) -> None:
    """Remove what an untrained phase left that begins anew with other values: data, a merged base, measures."""
    shutil.rmtree(run_dir.phase(phase.folder), ignore_errors=True)
    run_dir.ledger(phase.name).unlink(missing_ok=True)
    times: list[str | int] = ["before", "after", *run_dir.answered_steps(phase.name)]
    for when in times:
        run_dir.samples_file(phase.name, when).unlink(missing_ok=True)


def _yaml(plan: Plan) -> str:
    return mask_secrets(yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _not_writable(path: Path, error: OSError) -> RunDirError:
    return RunDirError(f"run.dir={path} cannot be written: {error.strerror}. Give another with run.dir=FOLDER.")
