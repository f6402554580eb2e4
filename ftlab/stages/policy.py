"""Where a phase of a curriculum starts from: what an earlier phase, or another run, has made of the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ftlab.errors import RunDirError
from ftlab.plan import Phase, Plan
from ftlab.rundir import RunDir
from ftlab.schema import Model, Run


def starting(run_dir: RunDir, plan: Plan, phase: Phase) -> Run:
    """The config of ``phase`` with the model that it starts from.

    Under ``start: merge`` the adapter becomes part of a base of the phase's own, in the phase's folder; it is merged
    in the precision of the compute dtype, unquantized, and quantized again when the phase loads it.

    :raises RunDirError: the phase or run that it starts from is not finished.
    """
    if phase.source is None:
        return phase.config
    model = _policy(run_dir, plan, phase.source, phase.config.model)
    if phase.start == "merge" and model.adapter is not None:
        base = run_dir.phase(phase.folder) / "base"
        if not base.is_dir():
            _merge(phase.config.model_copy(update={"model": model}), base)
        model = model.model_copy(update={"path": str(base), "revision": "main", "adapter": None})
    return phase.config.model_copy(update={"model": model})


def _policy(run_dir: RunDir, plan: Plan, source: str, wanted: Model) -> Model:
    """What ``source`` ended with. :param wanted: the model group of the phase that asks."""
    phase = next((phase for phase in plan.phases if phase.name == source), None)
    if phase is None:
        return _policy_of_run(Path(source), wanted)
    final = run_dir.phase(phase.folder) / "final"
    if not final.is_dir():
        raise RunDirError(
            f"Phase {source} of {run_dir.path} is not finished, and another one starts from it. Run it first: leave "
            f"run.phases out, or add {source} to it."
        )
    if (final / "adapter_config.json").is_file():
        base = starting(run_dir, plan, phase).model  # whose adapter, if it had one, is what was trained on
        return base.model_copy(update={"adapter": str(final)})
    return wanted.model_copy(update={"path": str(final), "revision": "main", "adapter": None, "init": "pretrained"})


def _policy_of_run(folder: Path, wanted: Model) -> Model:
    other = RunDir.open(folder)
    plan = other.plan()
    trained = [phase for phase in plan.phases if phase.config.stage.name != "rm"]
    if not trained:
        raise RunDirError(f"{folder} trained a reward model, which is no policy to start from.")
    return _policy(other, plan, trained[-1].name, wanted)


def _merge(config: Run, base: Path) -> None:
    """Write the model of ``config`` with its adapter merged, as a model of its own, whole or not at all."""
    from peft import PeftModel

    from ftlab.model import load
    from ftlab.stages.tokens import tokens_of

    unquantized = config.quant.model_copy(update={"name": "none"})
    tokenizer = tokens_of(config).tokenizer
    model: Any = load.load_model(config.model_copy(update={"quant": unquantized}))
    load.fit_embeddings(model, tokenizer)
    merged: Any = PeftModel.from_pretrained(model, str(config.model.adapter)).merge_and_unload()
    writing = base.with_name(".base.tmp")
    shutil.rmtree(writing, ignore_errors=True)
    merged.save_pretrained(writing)
    tokenizer.save_pretrained(writing)
    writing.replace(base)
