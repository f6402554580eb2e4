"""What a finished run says when it is started again: what is no longer as it was."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ftlab.data.sources import resolve
from ftlab.data.sources.resolve import FileChange
from ftlab.engine.final_weights import link_final
from ftlab.errors import DataError, RunDirError
from ftlab.rundir.compare import short_hash
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import is_folder
from ftlab.rundir.files import weight_hashes
from ftlab.rundir.sources import changed_weights

_NAMED = 5  # files


def remarks_on_finished(run_dir: RunDir) -> Iterator[str]:
    """Sentences for a run whose data or final weights are others now; none where nothing has changed. What leads to the
    final weights is put back."""
    yield from _changed_data(run_dir)
    results, phases = run_dir.manifest().get("phases", {}), run_dir.plan().phases
    done = (phase for phase in phases if phase.name in results)
    changed = [line for phase in done for line in changed_weights(run_dir, phase, results[phase.name])]
    yield from changed
    if changed:
        yield f"Put a copy back, or make them again, beside this run: ftlab reproduce {shlex.quote(str(run_dir.path))}"
    final = run_dir.phase_files(phases[-1].folder).final
    if final.is_dir() and not _leads_to(run_dir.final, final):
        kept = link_final(run_dir, final)
        yield f"{run_dir.final} did not lead to {final}: put back" + (f"; what was there is in {kept}" if kept else "")


def _leads_to(path: Path, final: Path) -> bool:
    """Whether a link or, in a copy that followed links, a folder has the weights of ``final``."""
    try:
        return path.resolve() == final.resolve() or (is_folder(path) and weight_hashes(path) == weight_hashes(final))
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


def _changed_data(run_dir: RunDir) -> Iterator[str]:
    changes: dict[FileChange, None] = {}
    for phase in run_dir.plan().phases:
        try:
            sources = resolve.resolve(phase.config.data, phase.config.stage.name)
            found = resolve.file_changes(sources, run_dir.data_files(phase.name))
        except (DataError, RunDirError) as error:  # no hub, a file that went meanwhile, a damaged ledger
            yield f"Whether its data is still the same cannot be told: {error}"
            return
        changes |= dict.fromkeys(found)
    if not changes:
        return
    yield "Its data is not what it was trained on:"
    for change in list(changes)[:_NAMED]:
        yield f"  - {_describe(change)}"
    if len(changes) > _NAMED:
        yield f"  - and {len(changes) - _NAMED} more"
    yield (
        "The weights and measures here are of the data as it was, and stay. To train on the data as it is now give its "
        "command with run.if_exists=new, or with another run.name."
    )


def _describe(change: FileChange) -> str:
    if change.now is None:
        return f"{change.file} was read ({short_hash(str(change.recorded))}), and {_fate(change.file)}"
    if change.recorded is None:
        return f"{change.file} ({short_hash(change.now)}) was not there, or not read"
    return f"{change.file} was {short_hash(change.recorded)} and is {short_hash(change.now)} now (sha256)"


def _fate(file: str) -> str:
    return "is read no more" if Path(file).exists() else "is gone"
