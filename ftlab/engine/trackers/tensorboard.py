"""TensorBoard: event files in the run directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ftlab.engine.trackers.base import TrackedRun
from ftlab.rundir.directory import RunDir


class TensorBoard:
    """A run that goes on writes its files anew: an event file can neither be cut nor, after a crash, be trusted."""

    def __init__(self, about: TrackedRun) -> None:
        self._folder = RunDir(about.folder).tensorboard

    def begin(self) -> str | None:
        from torch.utils.tensorboard import SummaryWriter

        # A TensorBoard that is open stops at a file that is gone, and goes on to the next from one that is empty. There
        # it finds that it has to forget everything from step 0 on.
        for file in self._folder.glob("events.out.tfevents.*"):
            if file.stat().st_size:
                os.truncate(file, 0)
            else:
                file.unlink()
        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        return None

    def log(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=seconds)
        self._writer.flush()

    def document(self, name: str, step: int, text: str) -> None:
        # Indented by four it is code to Markdown.
        self._writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), step)

    def samples(self, name: str, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        columns = ("prompt", "expected", "answer")
        rows = [columns, ["---"] * len(columns), *([_cell(sample[c]) for c in columns] for sample in samples)]
        self._writer.add_text(f"samples/{name}", "".join(f"| {' | '.join(row)} |\n" for row in rows), step)

    def finish(self, status: str) -> None:
        self._writer.close()


def _cell(text: str) -> str:
    """In a Markdown table."""
    return text.replace("|", "\\|").replace("\n", "<br>")
