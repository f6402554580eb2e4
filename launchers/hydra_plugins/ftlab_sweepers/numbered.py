"""Hydra's own sweep, in the order of the numbers that its jobs have in the journal: jobs that were added to it leave
the others the numbers that they had.

This module is imported at every start, because that is how Hydra finds plugins.
"""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class NumberedSweeper(BasicSweeper):
    """Chosen by ftlab itself, for a sweep of Hydra's basic sweeper."""

    def split_arguments(self, overrides: Any, max_batch_size: int | None) -> list[list[list[str]]]:
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        sweep = resolve_name("ftlab.rundir.sweep:SweepDir")(Path(str(self.config.hydra.sweep.dir)))
        journal = sweep.journal()
        jobs = [*jobs, *(resolve_name("ftlab.config.sweeps:clone_lines")(journal, number) for number in journal.clones)]
        known = map(resolve_name("ftlab.config.sweeps:identity"), jobs)
        numbers = resolve_name("ftlab.rundir.sweep:numbers")(sweep.jobs(), [*known])
        ordered = [job for _, job in sorted(zip(numbers, jobs), key=lambda one: one[0])]
        return [*BasicSweeper.split_overrides_to_chunks(ordered, max_batch_size)]
