"""How a process begins to work on a run: it makes or finds the directory, takes its lock, and only then writes."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftlab.base.redaction import mask_secrets
from ftlab.errors import RunDirError
from ftlab.rundir import extension, other_ranks
from ftlab.rundir.checkpoints import MERGED, weights
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import parse_yaml
from ftlab.rundir.files import write_atomic
from ftlab.rundir.identity import identity_of_phase
from ftlab.rundir.layout import check_layout
from ftlab.rundir.lock import LockHeldError, RunLock, held_by_another, is_held, not_writable
from ftlab.rundir.names import LATEST, OUTPUTS
from ftlab.rundir.plan import Phase, Plan
from ftlab.schema import RunKeys, Train

_Identities = Mapping[str, Mapping[str, Any]]


@contextmanager
def claim(plan: Plan) -> Iterator[RunDir]:
    """The directory of a new run, or the one that ``plan`` continues, for this process alone; its run.yaml is written.

    :raises RunDirError: it cannot be written, is somebody else's, holds another run, or a process is at work in it.
    """
    keys = plan.phases[0].config.run
    _check_name(keys)
    path = named_folder(keys)
    with ExitStack() as stack:
        if path is None or keys.if_exists == "new":
            made_up = Path(OUTPUTS) / f"{plan.title}-{time.strftime('%Y%m%d-%H%M%S')}"
            run_dir = _lock_free_folder(path or made_up, stack)
        else:
            _check_wanted(RunDir(path), keys.if_exists)
            stack.enter_context(RunLock(path, make=True))
            _check_wanted(RunDir(path), keys.if_exists)  # another start may have been there in the meantime
            run_dir = RunDir.open(path) if _is_taken(RunDir(path)) else RunDir(path)
        check_layout(run_dir)
        _write_down(run_dir, plan)
        yield run_dir


def named_folder(keys: RunKeys) -> Path | None:
    """The folder that a command names for its run; None where one is made up."""
    return Path(keys.dir) if keys.dir is not None else Path(OUTPUTS) / keys.name if keys.name is not None else None


def look(plan: Plan) -> tuple[RunDir, Changes] | None:
    """The directory that :func:`claim` would let a run go on in, and what it would change there; None where the run
    begins. Nothing is written.

    :raises RunDirError: as :func:`claim` does.
    """
    keys = plan.phases[0].config.run
    _check_name(keys)
    _text(plan)
    path = named_folder(keys)
    if path is None or keys.if_exists == "new" or not _is_taken(RunDir(path)):
        return None
    _check_wanted(RunDir(path), keys.if_exists)
    if is_held(path):
        raise held_by_another(path)
    run_dir = RunDir.open(path)
    check_layout(run_dir)
    return run_dir, _changes(run_dir, plan) if run_dir.has_begun else Changes()


def _check_name(keys: RunKeys) -> None:
    if keys.dir is None and keys.name == LATEST:
        raise RunDirError(f"{OUTPUTS}/{LATEST} is a link to the run that was started last. Choose another run.name.")


@contextmanager
def hold(run_dir: RunDir) -> Iterator[None]:
    """The lock of a run that is continued as it is.

    :raises RunDirError: it is held, or something stands where the run has a file or folder.
    """
    with RunLock(run_dir.path):
        check_layout(run_dir)
        yield


def lengthen(run_dir: RunDir, train: Train, lines: Sequence[str]) -> None:
    """Let a run of one phase that is continued take more steps. The lock is held.

    :param train: as it was asked for. :param lines: overrides of :data:`ftlab.rundir.extension.LENGTH` alone.
    :raises RunDirError: it has several phases, or would have had other weights on the way.
    """
    plan = run_dir.plan()
    if len(plan.phases) > 1:
        raise RunDirError(
            f"{run_dir.path} has several phases: give its first command again, with phases.NAME.train.max_steps=N and "
            "the same run.name or run.dir."
        )
    keys = [line.partition("=")[0] for line in lines]
    (phase,) = plan.phases
    asked = {key: getattr(train, key) for key in (key.partition(".")[2] for key in keys)}
    config = phase.config.model_copy(update={"train": phase.config.train.model_copy(update=asked)})
    kept = [line for line in plan.overrides if line.partition("=")[0] not in keys]
    longer = phase.model_copy(update={"config": config})
    _write_down(run_dir, plan.model_copy(update={"phases": (longer,), "overrides": (*kept, *lines)}))


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


def _check_wanted(run_dir: RunDir, if_exists: str) -> None:
    """:raises RunDirError: what is there is not wanted, or is no run."""
    if not _is_taken(run_dir):
        return
    if if_exists == "refuse":
        raise RunDirError(f"{run_dir.path} exists. run.if_exists=resume continues it, run.if_exists=new makes another.")
    if not run_dir.run_yaml.is_file():
        raise RunDirError(
            f"{run_dir.path} is no run directory: it has no {run_dir.run_yaml.name}. "
            "Give an empty or new folder to start a run, or an existing run to continue it."
        )


def _lock_free_folder(path: Path, stack: ExitStack) -> RunDir:
    """The first of ``path``, ``path-2``, ... in which nothing is. Of starts that want one at once, one gets its lock.

    :param stack: holds the lock.
    """
    for number in itertools.count(1):
        run_dir = RunDir(path if number == 1 else path.with_name(f"{path.name}-{number}"))
        if _is_taken(run_dir):
            continue
        try:
            stack.enter_context(RunLock(run_dir.path, make=True, patience=0.0))
        except LockHeldError:
            continue
        if not _is_taken(run_dir):
            break
        stack.close()
    return run_dir


def _is_taken(run_dir: RunDir) -> bool:
    """Whether something is here, or is about to be. A first start that was killed while it wrote run.yaml has left
    nothing."""
    if not run_dir.path.is_dir():
        return run_dir.path.exists()
    left = {run_dir.lock, *run_dir.path.glob(f".{run_dir.run_yaml.name}.*.tmp")}
    return bool(set(run_dir.path.iterdir()) - left)


def _write_down(run_dir: RunDir, plan: Plan) -> None:
    """Write run.yaml, unless the run is finished. :raises RunDirError: the directory holds another run."""
    if run_dir.has_begun:
        changes = _changes(run_dir, plan)
        if changes.longer is not None:
            extension.extend(run_dir, changes.longer)
        for phase in changes.anew:
            _forget(run_dir, phase)
    if run_dir.manifest().get("status") != "finished":
        _write(run_dir, plan)  # what may differ is taken from the newer command


def _write(run_dir: RunDir, plan: Plan) -> None:
    """:raises RunDirError: it cannot be written, or not without a secret that the run would need."""
    text = _text(plan)
    try:
        write_atomic(run_dir.run_yaml, text)
    except OSError as error:
        raise not_writable(run_dir.path, error) from None


def _text(plan: Plan) -> str:
    """Of run.yaml. :raises RunDirError: it would lack a secret that the run needs."""
    whole = _yaml(plan)
    text = mask_secrets(whole)
    if text == whole:
        return text
    for ours, written in zip(plan.phases, Plan.model_validate(parse_yaml(text)).phases):
        kept = identity_of_phase(written)
        for key, value in identity_of_phase(ours).items():
            if kept[key] != value:
                raise RunDirError(
                    f"{key} holds what looks like a secret: run.yaml would have {kept[key]!r}, and a run reads its "
                    "config from there. Secrets come from the environment."
                )
    return text


@dataclass(frozen=True)
class Changes:
    """What a command changes in the directory of the run that it goes on with.

    :param longer: the phase that takes more steps than before. :param anew: those that begin anew with other values.
    """

    longer: str | None = None
    anew: tuple[Phase, ...] = ()


def _changes(run_dir: RunDir, plan: Plan) -> Changes:
    """:raises RunDirError: the directory holds another run than ``plan``; what differs is named."""
    plan = Plan.model_validate(parse_yaml(mask_secrets(_yaml(plan))))  # as it would be written: without secrets
    here = run_dir.plan()
    ours, theirs = ({phase.name: identity_of_phase(phase) for phase in p.phases} for p in (here, plan))
    fresh = _fresh(run_dir, here)
    begun = ours.keys() & theirs.keys() - {phase.name for phase in fresh}
    asked = {phase.name: phase.config for phase in plan.phases}
    done, made_up = run_dir.manifest().get("phases", {}), {}
    for phase in (one for one in here.phases if one.name in begun):
        is_under_way = _is_trained(run_dir, phase) and phase.name not in done
        if reason := other_ranks.why_not(phase.config, asked[phase.name], is_under_way):
            raise RunDirError(f"{run_dir.path} cannot go on like this: {reason}")
        made_up[phase.name] = other_ranks.same_rows(phase.config, asked[phase.name])
    different = [
        f"  - {f'phases.{name}.' if len(theirs) > 1 else ''}{key}: {ours[name].get(key)} there, {value} here"
        for name in begun
        for key, value in theirs[name].items()
        if ours[name].get(key) != value and key not in made_up[name]
    ]
    longer = _longer_phase(ours, theirs, [phase.name for phase in fresh])
    if [*ours] == [*theirs] and longer is not None:
        extension.check_longer(run_dir, here, plan, longer)
    elif [*ours] != [*theirs] or different:
        raise RunDirError(
            "\n".join([f"{run_dir.path} holds another run:", *(different or [f"  - phases: {', '.join(ours)} there"])])
            + "\nrun.if_exists=new starts beside it; another run.name or run.dir starts elsewhere."
        )
    return Changes(longer, tuple(phase for phase in fresh if ours[phase.name] != theirs[phase.name]))


def begun_phases(keys: RunKeys) -> dict[str, Phase]:
    """The phases, by name, that the run has begun which a command goes on with: as they are there, and have to stay.

    :raises RunDirError: run.yaml is damaged, or another version's.
    """
    path = named_folder(keys)
    if path is None or keys.if_exists != "resume":
        return {}
    run_dir = RunDir(path)
    if not run_dir.run_yaml.is_file() or not run_dir.has_begun:
        return {}
    here = run_dir.plan()
    fresh = {phase.name for phase in _fresh(run_dir, here)}
    return {phase.name: phase for phase in here.phases if phase.name not in fresh}


def _fresh(run_dir: RunDir, here: Plan) -> list[Phase]:
    """Nothing is lost of a phase of a curriculum that has no weights: it may be mended, and then begins anew. So may
    one that is a run of its own, and was not even measured."""
    may_change = len(here.phases) > 1 or not (run_dir.metrics.is_file() or run_dir.final.is_dir())
    return [phase for phase in here.phases if may_change and not _is_trained(run_dir, phase)]


def _longer_phase(ours: _Identities, theirs: _Identities, fresh: Collection[str]) -> str | None:
    """The phase of which more steps are asked for, where nothing else differs."""
    differ = {
        name: {key for key, value in theirs[name].items() if ours[name].get(key) != value}
        for name in ours.keys() & theirs.keys() - {*fresh}
    }
    changed = [name for name, keys in differ.items() if keys]
    asks = {"train.max_steps", "train.epochs"}
    if len(changed) == 1 and differ[changed[0]] <= {*extension.LENGTH} and differ[changed[0]] & asks:
        return changed[0]
    return None


def _is_trained(run_dir: RunDir, phase: Phase) -> bool:
    """Whether the phase has weights, if only those of a torn checkpoint. What it merged to begin with are none."""
    folder = run_dir.phase(phase.folder)
    trained = (path for path in weights(folder) if path.relative_to(folder).parts[0] not in MERGED)
    return phase.name in run_dir.manifest().get("phases", {}) or any(trained)


def _forget(run_dir: RunDir, phase: Phase) -> None:
    """Remove what an untrained phase left that begins anew with other values: data, a merged base, measures."""
    shutil.rmtree(run_dir.phase(phase.folder), ignore_errors=True)
    run_dir.ledger(phase.name).unlink(missing_ok=True)
    run_dir.phase_files(phase.folder).rollouts.unlink(missing_ok=True)
    times: list[str | int] = ["before", "after", *run_dir.answered_steps(phase.name)]
    for when in times:
        run_dir.samples_file(phase.name, when).unlink(missing_ok=True)


def _yaml(plan: Plan) -> str:
    text: str = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text
