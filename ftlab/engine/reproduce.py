"""``ftlab reproduce RUN``: the run again, from its run.yaml alone, and whether it came to the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlab.base.libraries import quiet_libraries
from ftlab.base.terminal import echo
from ftlab.data.sources import resolve
from ftlab.engine.starts import differing_starts
from ftlab.errors import ConfigError, DataError, Mistake, NotReproducedError, RunDirError
from ftlab.preflight import check as preflight
from ftlab.rundir import compare
from ftlab.rundir.claim import claim
from ftlab.rundir.directory import RunDir
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Plan
from ftlab.rundir.sources import changed_weights
from ftlab.rundir.start_folder import in_start_folder
from ftlab.schema import ReproduceTask, Run

_SUFFIX = "-reproduced"
_OPERATION = ("run.name", "run.dir", "run.if_exists", "run.phases", "run.checkpoint")


def reproduce(run: Run, overrides: Sequence[str]) -> None:
    """Run every phase of ``run.dir`` again in a folder beside it, with the same seeds, and compare.

    One that was stopped goes on when the same command is given again. Relative paths start where those of the run did.

    :raises RunDirError: the run is not finished; its data has changed since; there is something else in the folder.
    :raises NotReproducedError: the weights or the metrics are not the same; says where they part.
    """
    task = run.task
    assert isinstance(task, ReproduceTask)
    quiet_libraries()
    original = _check_finished(run, overrides)
    here = Path.cwd()
    with in_start_folder(original) as (original, remark):
        if remark is not None:
            echo(remark)
        out = None if task.out is None else Path(task.out).expanduser()
        _reproduce(original, out if out is None or remark is None else here / out, task.force)


def _reproduce(original: RunDir, out: Path | None, force: bool) -> None:
    plan = original.plan()
    _check_data(original, plan, force)
    again = _copy_plan(plan, _folder(original, plan, out))
    preflight.check_plan(again)
    with claim(again) as run_dir:
        Manifest(run_dir).record(reproduces={"run": str(original.path)}, **_happened(original))
        for line in _changed_weights(original):
            echo(line)
        _execute(run_dir)
        is_equal, lines = verdict(original, run_dir)
        Manifest(run_dir).record(reproduces={"run": str(original.path), "equal": is_equal})
        text = "\n".join(lines)
        with run_dir.log.open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")
    if not is_equal:
        raise NotReproducedError(text)
    echo(text)


def _happened(original: RunDir) -> dict[str, Any]:
    """What its config does not say, and happens again: where memory ran out, steps were taken in smaller parts; and
    what its user set while it was at work."""
    manifest = original.manifest()
    changes = [{**one, "line": -1} for one in manifest.get("control", []) if one["verb"] == "set"]
    kept = {"batch_sizes": manifest.get("batch_sizes"), "control": changes}
    return {key: value for key, value in kept.items() if value}


def _execute(run_dir: RunDir) -> None:
    from ftlab.engine.run import execute

    execute(run_dir)


def _check_finished(run: Run, overrides: Sequence[str]) -> RunDir:
    if run.run.dir is None:
        raise ConfigError([Mistake("run.dir", "ftlab reproduce needs a run directory: ftlab reproduce outputs/my-run")])
    ignored = [o for o in overrides if not o.startswith(("task=", "task.", "run.dir=", "-"))]
    if ignored:
        reason = "ftlab reproduce takes everything from the run's own run.yaml"
        raise ConfigError([Mistake(override, reason) for override in ignored])
    run_dir = RunDir.open(Path(run.run.dir).expanduser())
    manifest = run_dir.manifest()
    if manifest.get("status") != "finished":
        status = manifest.get("status", "new")
        again = f"ftlab resume {shlex.quote(str(run_dir.path))}"
        raise RunDirError(f"{run_dir.path} is not finished (its status is {status}). Resume it first: {again}")
    if (clone := manifest.get("clone")) is not None:
        raise RunDirError(
            f"{run_dir.path} is a clone of {clone['run']} after step {clone['step']}, and begins with weights that no "
            "config makes. What can be made again is the run that it is a clone of."
        )
    names, done = [phase.name for phase in run_dir.plan().phases], manifest.get("phases", {})
    if {*names} != {*done}:
        raise RunDirError(
            f"{run_dir.manifest_json} has results of {', '.join(done) or 'no phase'}, and the run's phases are "
            f"{', '.join(names)}. Put a copy back."
        )
    return run_dir


def _check_data(original: RunDir, plan: Plan, force: bool) -> None:
    """:raises RunDirError: files that are not what the run read."""
    changes: dict[resolve.FileChange, None] = {}
    for phase in plan.phases:
        try:
            sources = resolve.resolve(phase.config.data, phase.config.stage.name)
        except DataError as error:
            raise DataError(f"{error}{original.start_folder_hint()}") from None
        changes |= dict.fromkeys(resolve.file_changes(sources, original.data_files(phase.name)))
    if changes and not force:
        said = ", ".join(map(str, changes))
        raise RunDirError(
            f"{said} since {original.path} was trained, so the same weights cannot be expected. Put "
            "the data back, or run it anyway with force=true."
        )
    for change in changes:
        echo(f"{change} since {original.path} was trained (force=true)")


# --- the second run --------------------------------------------------------------------------------------------------


def _copy_plan(plan: Plan, out: Path) -> Plan:
    """The same plan in another folder, all of its phases."""
    keys = {"name": None, "dir": str(out), "if_exists": "resume", "phases": None, "checkpoint": None}
    phases = []
    for phase in plan.phases:
        where = phase.config.run.model_copy(update=keys)
        phases.append(phase.model_copy(update={"config": phase.config.model_copy(update={"run": where})}))
    kept = [o for o in plan.overrides if o.lstrip("+").partition("=")[0] not in _OPERATION]
    return plan.model_copy(update={"phases": tuple(phases), "overrides": (*kept, f"run.dir={out}")})


def _folder(original: RunDir, plan: Plan, out: Path | None) -> Path:
    """A folder that is free, or that holds what is there of the same thing, begun and not finished."""
    own = original.path if original.path.name not in ("", "..") else original.path.resolve()
    first = out if out is not None else own.with_name(f"{own.name}{_SUFFIX}")
    folder, number = first, 2
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        there = RunDir(folder)
        is_ours = there.run_yaml.is_file() and _copy_plan(there.plan(), folder) == _copy_plan(plan, folder)
        if is_ours and there.manifest().get("status") != "finished":
            return folder
        if out is not None:
            raise RunDirError(f"out={out} exists and holds something else. Give a new folder.")
        folder = first.with_name(f"{first.name}-{number}")
        number += 1
    return folder


# --- the comparison --------------------------------------------------------------------------------------------------


def verdict(original: RunDir, again: RunDir) -> tuple[bool, list[str]]:
    """Whether two finished runs of one plan came to the same, and what there is to say of it."""
    first, second = original.manifest(), again.manifest()
    ours, theirs = original.logged_by_phase(), again.logged_by_phase()
    parted, equal = [], []
    for name, result in first["phases"].items():
        metrics = compare.metrics(ours.get(name, []), theirs.get(name, []), 0.0)
        parted += [f"  {name}: {line}" for line in _metrics_part(metrics)]
        parted += [f"  {name}: {line}" for line in _weights_part(result["sha256"], second["phases"][name]["sha256"])]
        shown = ", ".join(f"{file} {compare.short_hash(value)}" for file, value in result["sha256"].items())
        equal.append(f"  {name}: {shown}; {metrics.lines[0]} logged lines")
    parted += [f"  {line}" for line in _changed_weights(original)]
    environment = [*_environment(first, second)]
    if not parted:
        said = f"{again.path} is the same as {original.path}, in its weights and in its metrics, times aside:"
        return True, [said, *equal, *environment]
    return False, [
        f"{again.path} is not the same as {original.path}:", *parted, *environment,
        f"More: ftlab diff {shlex.quote(str(original.path))} {shlex.quote(str(again.path))}",
    ]  # fmt: skip


def _metrics_part(metrics: compare.Metrics) -> Iterator[str]:
    """The first step at which they do, with every key and both values; and what only one of them logged."""
    for one in metrics.partings:
        if one.step == metrics.first_step:
            a, b = compare.format_both(one.a, one.b)
            yield f"step {one.step}: {one.key} was {a} and is {b} now"
    later = len({one.key for one in metrics.partings if one.step != metrics.first_step})
    if later:
        yield f"{later} more value{'s' * (later > 1)} part{'s' * (later == 1)} after step {metrics.first_step}"
    for when, alone in (("only the first time", metrics.alone_a), ("only now", metrics.alone_b)):
        for key, (step, count) in alone.items():
            yield f"step {step}: {key} was logged {when}{f' ({count} times in all)' * (count > 1)}"
    if metrics.ends[0] != metrics.ends[1]:
        yield f"it ended at step {metrics.ends[0]}, and at step {metrics.ends[1]} now"


def _weights_part(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[str]:
    for one in compare.differences(ours, theirs):
        a, b = compare.format_both(one.a, one.b)
        yield f"final weights: {one.key} was {a} and is {b} now"


def _changed_weights(original: RunDir) -> Iterator[str]:
    """Final weights that are no longer those that the run ended with."""
    phases = {phase.name: phase for phase in original.plan().phases}
    for name, result in original.manifest()["phases"].items():
        yield from changed_weights(original, phases[name], result, with_missing=False)


def _environment(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    found = list(compare.environment(first, second))
    if not found:
        yield "environment: no difference"
    else:
        yield "environment:"
    for one in found:
        a, b = compare.format_both(one.a, one.b)
        yield f"  {one.key} was {a} and is {b} now"
    for whose, manifest in (("first run", first), ("second run", second)):
        for when, differs in differing_starts(dict(manifest)):
            keys = ", ".join(key for key, _ in compare.flatten(differs))
            yield f"  the {whose} was continued at {when} with another {keys}"
