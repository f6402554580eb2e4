"""What a process of several that ran out of memory leaves for the next start: the size of its batches that fits.

Only the first process writes what a run remembers, and it may be another whose memory has run out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic

_Change = dict[str, int]


def leave_note(run_dir: RunDir, rank: int, phase: str, change: _Change) -> None:
    """:param change: from which step on which size holds."""
    write_atomic(_folder(run_dir) / f"rank-{rank}-memory.json", json.dumps({"phase": phase, "change": change}) + "\n")


@contextmanager
def taken_notes(run_dir: RunDir, phase: str) -> Iterator[list[_Change]]:
    """What was left in the last start of a phase, once each; gone once it has been remembered elsewhere."""
    paths = sorted(_folder(run_dir).glob("rank-*-memory.json"))
    notes = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    changes = [note["change"] for note in notes if note["phase"] == phase]
    yield [change for at, change in enumerate(changes) if change not in changes[:at]]
    for path in paths:
        path.unlink()


def _folder(run_dir: RunDir) -> Path:
    return run_dir.rank_log(0).parent
