"""The rows of one process of several. transformers' own way fills the last batches of an epoch up with rows that were
trained on before, and gives evaluations some rows twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler

from ftlab.distributed.world import World
from ftlab.stages.trainer.batching import batches_of_rank, shuffled

FILLER = "is_filler"  # in a batch that stands in for one that there is none of


class ShardLoader(DataLoader[Any]):
    """Micro-batches of one process. Where the rows do not go round, it gives one of a row that counts for nothing: the
    model has to be called equally often everywhere, or the others wait.

    :param rows: of all processes. :param batch: rows of a micro-batch. :param seed: of the order of the first epoch,
        drawn as one process alone would draw it; None: as they stand.
    """

    def __init__(
        self, rows: Any, batch: int, world: World, collate: Callable[[Any], Any], seed: int | None, **more: Any
    ):
        self._turns = _Turns(len(rows), batch, world, seed)
        made: Any = _Collate(collate)  # of one item: torch hands it a list only where it cuts batches itself
        super().__init__(_Batches(rows), batch_size=None, sampler=self._turns, collate_fn=made, **more)

    def set_epoch(self, epoch: int) -> None:
        self._turns.epoch = epoch


class _Turns(Sampler[list[int]]):
    def __init__(self, count: int, batch: int, world: World, seed: int | None):
        self._count, self._batch, self._world, self._seed = count, batch, world, seed
        self.epoch = 0

    def __iter__(self) -> Iterator[list[int]]:
        order: Sequence[int] = range(self._count)
        if self._seed is not None:
            order = shuffled(self._count, self._seed + self.epoch)
        yield from batches_of_rank(order, self._batch, self._world.rank, self._world.size)

    def __len__(self) -> int:
        return len(batches_of_rank(range(self._count), self._batch, self._world.rank, self._world.size))


class _Batches(Dataset[Any]):
    """By the indices of its rows, a micro-batch; by none, one row that stands in."""

    def __init__(self, rows: Any):
        self._rows = rows

    def __getitem__(self, indices: list[int]) -> tuple[bool, list[Any]]:
        return not indices, [self._rows[index] for index in indices or [0]]


class _Collate:
    def __init__(self, collate: Callable[[Any], Any]):
        self._collate = collate

    def __call__(self, given: tuple[bool, list[Any]]) -> dict[str, Any]:
        is_filler, rows = given
        batch: dict[str, Any] = self._collate(rows)
        return {**batch, FILLER: True} if is_filler else batch
