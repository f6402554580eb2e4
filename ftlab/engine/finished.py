"""What a finished run says when it is started again: what is no longer as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftlab.data.sources import resolve
from ftlab.data.sources.resolve import FileChange
from ftlab.engine.final_weights import changed_weights
from ftlab.errors import DataError, RunDirError
from ftlab.rundir.compare import short_hash
from ftlab.rundir.directory import RunDir

_NAMED = 5  # files


def remarks_on_finished(run_dir: RunDir) -> Iterator[str]:
    """Sentences for a run whose data or final weights are others now; none where nothing has changed."""
    yield from _changed_data(run_dir)
    results = run_dir.manifest().get("phases", {})
    for phase in run_dir.plan().phases:
        if phase.name in results:
            yield from changed_weights(run_dir, phase, results[phase.name])


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
