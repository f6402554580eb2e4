"""The final weights of a phase, with everything that serves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ftlab.rundir.checkpoints import set_aside
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import is_folder, is_there
from ftlab.rundir.files import move_folder, temporary_folder, weight_hashes


def save_final(
    model: Any, tokenizer: Any, stop: list[int], final: Path, state: dict[str, Any] | None = None
) -> Path | None:
    """Write the adapter or model with tokenizer, chat template and stop tokens, whole or not at all. Other weights that
    were there are never removed: where they are then is returned.

    :param stop: ids at which an answer ends. :param final: the folder.
    :param state: see :func:`ftlab.model.whole_weights.whole_weights`.
    """
    from ftlab.model.whole_weights import save_weights, weights_to_save

    writing = temporary_folder(final)
    shutil.rmtree(writing, ignore_errors=True)  # of an attempt that was killed
    save_weights(model, weights_to_save(model, state), writing)
    tokenizer.save_pretrained(writing)
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = stop, tokenizer.pad_token_id
    generation.save_pretrained(writing)
    kept = None
    if is_there(final):  # of an earlier attempt that was stopped before it was measured
        if is_folder(final) and weight_hashes(final) == weight_hashes(writing):
            shutil.rmtree(final)
        else:
            kept = set_aside(final)
    move_folder(writing, final)
    return kept


def link_final(run_dir: RunDir, final: Path) -> Path | None:
    """Let ``final`` of the run directory point at a phase's.

    In a copy that followed links there is a folder in its place. If its weights are those of none of the phases it is
    set aside: where it is then is returned.
    """
    kept = None
    if is_there(run_dir.final) and not run_dir.final.is_symlink():
        finals = [run_dir.phase_files(phase.folder).final for phase in run_dir.plan().phases]
        of_phases = [weight_hashes(folder) for folder in finals if folder.is_dir()]
        if run_dir.final.is_dir() and weight_hashes(run_dir.final) in of_phases:
            shutil.rmtree(run_dir.final)
        else:
            kept = set_aside(run_dir.final)
    link = temporary_folder(run_dir.final)
    link.unlink(missing_ok=True)
    link.symlink_to(final.relative_to(run_dir.path))
    link.replace(run_dir.final)
    return kept
