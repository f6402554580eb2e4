"""Of a run, the weights that another run starts from, or that a command works with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftlab.errors import ConfigError, Mistake, RunDirError, nearest
from ftlab.rundir.checkpoints import checkpoints, is_whole, step_of
from ftlab.rundir.compare import format_both, lower_is_better
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import weight_hashes
from ftlab.rundir.names import OF_GOLDEN, TRAINER_STATE
from ftlab.rundir.plan import Phase
from ftlab.rundir.records import read_trainer_state


@dataclass(frozen=True)
class Weights:
    """Weights that a phase of a run has come to.

    :param folder: of the adapter or the model. :param step: of the checkpoint; None of final weights.
    :param remark: why it is these, where the run has not finished.
    """

    phase: Phase
    folder: Path
    step: int | None
    remark: str | None


def weights_of_run(folder: Path, phase: str | None, step: int | None) -> Weights:
    """The weights of a run, whatever state it is in: final ones, else the best checkpoint.

    :param phase: whose; None: the last that trained a policy and has weights, or a reward model where all train one.
    :param step: of a checkpoint, the last phase's that has it.
    :raises RunDirError: there is no run, or it has no such weights. :raises ConfigError: there is no such phase.
    """
    run_dir = _open(folder, f"{folder} ")
    phases = run_dir.plan().phases
    names = [one.name for one in phases]
    if phase is not None and phase not in names:
        known = f"no such phase. {folder} has: {', '.join(names)}."
        raise ConfigError([Mistake("task.phase", known, phase, nearest(phase, names))])
    policies = [one for one in phases if one.config.stage.name != "rm"]
    wanted = [one for one in phases if one.name == phase] if phase is not None else policies or list(phases)
    if step is not None:
        return _of_step(run_dir, list(reversed(wanted)), step)
    for one in reversed(wanted):
        if (found := _of_phase(run_dir, one)) is not None:
            later = [other.name for other in wanted[wanted.index(one) + 1 :]]
            behind = f"phase {later[-1]} has no weights yet; " if later else ""
            remark = f"{behind}{found.remark or f'these are of phase {one.name}'}" if behind else found.remark
            return replace(found, remark=remark)
    raise RunDirError(
        f"{folder} has no weights yet: no phase is finished, and there is no whole checkpoint. Train it first: "
        f"ftlab resume {shlex.quote(str(folder))}"
    )


def _of_step(run_dir: RunDir, phases: Sequence[Phase], step: int) -> Weights:
    for phase in phases:
        checkpoint = run_dir.phase_files(phase.folder).checkpoint(step)
        if checkpoint.is_dir() and is_whole(checkpoint):
            return Weights(phase, checkpoint, step, None)
    there = [
        f"{step_of(path)} of {phase.name}" if len(phases) > 1 else str(step_of(path))
        for phase in phases
        for path in checkpoints(run_dir.phase(phase.folder))
        if is_whole(path)
    ]
    raise RunDirError(
        f"run.checkpoint={step}: {run_dir.path} has no whole checkpoint of that step. It has: "
        f"{', '.join(there) or 'none'}."
    )


def _of_phase(run_dir: RunDir, phase: Phase) -> Weights | None:
    files = run_dir.phase_files(phase.folder)
    if files.final.is_dir():
        return Weights(phase, files.final, None, None)
    whole = [path for path in checkpoints(files.folder) if is_whole(path)]
    if not whole:
        return None
    metric = phase.config.train.best_metric
    key = metric if metric.startswith(OF_GOLDEN) else f"eval_{metric}"
    log = read_trainer_state(whole[0] / TRAINER_STATE)["log_history"]
    values = {entry["step"]: entry[key] for entry in log if isinstance(entry.get(key), int | float)}
    measured = [path for path in whole if step_of(path) in values and values[step_of(path)] == values[step_of(path)]]
    sign = 1 if lower_is_better(key) else -1
    chosen = min(measured, key=lambda path: sign * values[step_of(path)], default=whole[0])
    step = step_of(chosen)
    why = f"the best by {key}, {values[step]:.5g}" if measured else "the newest: none was evaluated"
    remark = f"phase {phase.name} is not finished: this is its checkpoint of step {step}, {why}"
    return Weights(phase, chosen, step, remark)


def changed_weights(run_dir: RunDir, phase: Phase, result: Mapping[str, Any], with_missing: bool = True) -> list[str]:
    """What is no longer as it was when a phase ended, a sentence for each file.

    :param result: as the manifest has it. :param with_missing: whether a file that is gone is one.
    """
    final = run_dir.phase_files(phase.folder).final
    if not final.is_dir():
        return [] if not with_missing else [f"{final} is gone since the run finished"]
    found, lines = weight_hashes(final), []
    for file, value in result["sha256"].items():
        if file not in found and not with_missing:
            continue
        if file not in found:
            lines.append(f"{final / file} is gone since the run finished")
        elif found[file] != value:
            a, b = format_both(value, found[file])
            lines.append(f"{final / file} has changed since the run finished: it was {a} and is {b} now")
    return lines


def policy_of_run(folder: Path) -> Phase:
    """The last phase of a run that trained a policy, whose final weights are there.

    :raises RunDirError: there is no such run, or it is not finished.
    """
    run_dir = _open(folder, "")
    trained = [phase for phase in run_dir.plan().phases if phase.config.stage.name != "rm"]
    if not trained:
        raise RunDirError("trained a reward model, which is no policy to start from")
    if not run_dir.phase_files(trained[-1].folder).final.is_dir():
        raise RunDirError(f"has not finished training; finish it first: ftlab resume {shlex.quote(str(folder))}")
    return trained[-1]


def _open(folder: Path, begins: str) -> RunDir:
    """:param begins: of what is said of a folder that is no run."""
    if not (folder / "run.yaml").is_file():
        inside = next((parent for parent in folder.absolute().parents if (parent / "run.yaml").is_file()), None)
        if inside is not None:
            raise RunDirError(f"{begins}is only a part of a run; name the run directory itself, {inside}")
        raise RunDirError(f"{begins}is no run directory: it has no run.yaml. A model or adapter of another origin goes "
                          "into model.path or model.adapter")  # fmt: skip
    return RunDir.open(folder)
