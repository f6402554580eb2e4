"""Before a run of several processes trains for hours: whether each does what the run has planned for it.

Whatever differs stops the run and is named. Failures that this is for train on, and nobody notices: processes that
train on the same rows, weights that drift apart, an update of a library on one machine of several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from ftlab import __version__
from ftlab.base import machine
from ftlab.distributed.ranks import Ranks
from ftlab.distributed.world import planned_devices
from ftlab.engine.fingerprints import weight_sums
from ftlab.engine.output import Output
from ftlab.engine.starts import PACKAGES
from ftlab.errors import RanksDifferError
from ftlab.model.kernels.liger import has_liger_layers
from ftlab.model.load import compute_dtype
from ftlab.schema import Run


class Handshake(TrainerCallback):
    """Compares, before the first step of a start, what each process is; after it, which rows it has read and, where
    all hold the same weights, what these have become.

    :param trainer: whose model has been wrapped once training begins.
    """

    def __init__(self, run: Run, ranks: Ranks, trainer: Any, output: Output):
        self._run, self._ranks, self._trainer, self._output = run, ranks, trainer, output
        self._is_pending = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = self._ranks.gather(self._facts())
        check_facts(self._planned(), found)
        words = ", ".join(f"{name} {value}" for name, value in found[0].items() if name not in PACKAGES)
        self._output.note(f"{len(found)} processes as planned: {words}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._is_pending:
            return
        self._is_pending = False
        planned = self._trainer.rows_of_step(state.global_step)
        check_rows(planned, self._ranks.gather(self._taken(planned)), args.train_batch_size)
        line = "the first step read the rows that were planned"
        sharding = self._trainer.sharding
        if sharding.is_whole:
            check_weights(self._ranks.gather(weight_sums(self._trainer.trained_modules, sharding)))
            line += ", and left the same weights everywhere"
        self._output.note(line)

    def _taken(self, planned: Sequence[Sequence[int]]) -> list[int]:
        """The rows of the first step; others may have been read ahead. :param planned: those of all processes."""
        world = self._ranks.world
        own = sum(map(len, planned[world.rank :: world.size]))
        return [*self._trainer.rows_taken][:own]

    def _planned(self) -> dict[str, Any]:
        sharding = self._trainer.sharding
        return {
            "processes": planned_devices(self._run.hardware),
            "wrapper": sharding.wrapper,
            "sharding": sharding.layout,
            "precision": str(compute_dtype(self._run)),
        }

    def _facts(self) -> dict[str, Any]:
        trainer, config = self._trainer, self._trainer.model.config
        return {
            "processes": self._ranks.group_size(),
            "wrapper": trainer.sharding.found_wrapper(trainer.model_wrapped),
            "sharding": trainer.sharding.found_layout(trainer.model_wrapped),
            "precision": str(compute_dtype(self._run)),
            "attention": config._attn_implementation,
            "layers": "Liger's" if has_liger_layers(trainer.model) else "its own",
            "rows": self._fingerprint(),
            "ftlab": __version__,
            **{name: machine.package_version(name) for name in PACKAGES},
        }

    def _fingerprint(self) -> str:
        """Of all rows that train, which every process must have in the same order."""
        return hashlib.sha256(self._trainer.fingerprint().encode()).hexdigest()[:12]


def check_facts(planned: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> None:
    """:param found: what each process is, by rank. :raises RanksDifferError: one is not as planned, or as the first."""
    wanted = {**found[0], **planned}
    lines = [
        f"  - rank {rank}: {name} is {value}, and {wanted[name]} " + ("was planned" if name in planned else "at rank 0")
        for rank, facts in enumerate(found)
        for name, value in facts.items()
        if value != wanted[name]
    ]
    if lines:
        raise RanksDifferError("\n".join(["The processes of this run differ, and nothing was trained:", *lines]))


def check_rows(planned: Sequence[Sequence[int]], taken: Sequence[Sequence[int]], batch: int) -> None:
    """:param planned: the rows of the step, micro-batch by micro-batch. :param taken: those that each process has read,
    by rank. :raises RanksDifferError: a process has read others than are its own."""
    size = len(taken)
    for rank, rows in enumerate(taken):
        own = [row for members in planned[rank::size] for row in members]
        if [*rows][: len(own)] != own:
            raise RanksDifferError(
                f"Rank {rank} of {size} trained its first step on other rows than planned: on "
                f"{', '.join(map(str, rows[:batch]))}, ... and not on {', '.join(map(str, own[:batch]))}, ..."
            )


def check_weights(sums: Sequence[Mapping[str, int]]) -> None:
    """:param sums: of each trained weight, by rank. :raises RanksDifferError: a process has others than the first."""
    for rank, own in enumerate(sums):
        different = [name for name, value in sums[0].items() if own.get(name) != value]
        if different or own.keys() != sums[0].keys():
            names = different or sorted(own.keys() ^ sums[0].keys())
            raise RanksDifferError(
                f"After the first step rank {rank} of {len(sums)} has other weights than rank 0 in {len(names)} of "
                f"{len(sums[0])} tensors, {names[0]} first: gradients were not averaged over all processes."
            )
