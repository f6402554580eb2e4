"""Where a phase of a curriculum starts from: what an earlier phase, or another run, has made of the model."""

from __future__ import annotations

import shutil
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.pretrained.files import ADAPTER
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import move_folder, temporary_folder
from ftlab.rundir.plan import WEIGHTS, Phase, Plan
from ftlab.rundir.sources import policy_of_run
from ftlab.schema import Run


def starting_config(run_dir: RunDir, plan: Plan, phase: Phase) -> Run:
    """The config of ``phase`` with the model that it starts from.

    Under ``start: merge`` the adapter becomes part of a base of the phase's own, in the phase's folder; it is merged
    in the precision of the compute dtype, unquantized, and quantized again when the phase loads it.

    :raises RunDirError: the phase or run that it starts from is not finished.
    """
    if phase.source is None:
        return phase.config
    ended = ending_config(run_dir, plan, phase.source)
    weights = {name: getattr(ended.model, name) for name in WEIGHTS}
    if phase.start == "merge" and ended.model.adapter is not None:
        base = run_dir.phase_files(phase.folder).merged_base
        if not base.is_dir():
            _merge(ended.model_copy(update={"hardware": phase.config.hardware}), base)
        weights |= {"path": str(base), "revision": "main", "adapter": None, "init": "pretrained"}
    return phase.config.model_copy(update={"model": phase.config.model.model_copy(update=weights)})


def ending_config(run_dir: RunDir, plan: Plan, source: str) -> Run:
    """The config of what ``source`` names, a phase or the last one of a run, with the model that it ended with."""
    phase = next((phase for phase in plan.phases if phase.name == source), None)
    if phase is None:
        other = RunDir.open(Path(source))
        return ending_config(other, other.plan(), _policy_of_run(source).name)
    final = run_dir.phase_files(phase.folder).final
    if not final.is_dir():
        raise RunDirError(
            f"Phase {source} of {run_dir.path} is not finished, and another one starts from it. Run it first: leave "
            f"run.phases out, or add {source} to it."
        )
    return config_with_weights(run_dir, plan, phase, final)


def config_with_weights(run_dir: RunDir, plan: Plan, phase: Phase, folder: Path) -> Run:
    """The config of ``phase`` with the model that it has in ``folder``: its final weights, or those of a checkpoint."""
    if (folder / ADAPTER).is_file():
        began = starting_config(run_dir, plan, phase)  # whose adapter, if it had one, is what was trained on
        return began.model_copy(update={"model": began.model.model_copy(update={"adapter": str(folder)})})
    weights = {"path": str(folder), "revision": "main", "adapter": None, "init": "pretrained"}
    return phase.config.model_copy(update={"model": phase.config.model.model_copy(update=weights)})


def _policy_of_run(source: str) -> Phase:
    try:
        return policy_of_run(Path(source))
    except RunDirError as error:
        raise RunDirError(f"{source} {error}.") from None


def _merge(config: Run, base: Path) -> None:
    """Write the model of ``config`` with its adapter merged, as a model of its own, whole or not at all."""
    from ftlab.policy.merged import merged_model
    from ftlab.policy.tokens import load_tokens

    unquantized = config.model_copy(update={"quant": config.quant.model_copy(update={"name": "none"})})
    tokenizer = load_tokens(config).tokenizer
    merged = merged_model(unquantized, tokenizer)
    writing = temporary_folder(base)
    shutil.rmtree(writing, ignore_errors=True)
    merged.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    move_folder(writing, base)
