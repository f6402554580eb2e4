"""The rows of one process of several. transformers' own way fills the last batches of an epoch up with rows that were
trained on before, and gives evaluations some rows twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from accelerate.data_loader import DataLoaderShard
from torch.utils.data import Dataset

from ftlab.distributed.world import World
from ftlab.stages.trainer.batching import batches_of_rank, shuffled

FILLER = "is_filler"  # in a batch that stands in for one that there is none of
REMEMBERED = 1 << 16  # rows


class ShardBatches:
    """The micro-batches of one process, as indices of rows. Where the rows do not go round, the last is a row that
    counts for nothing (``~index``): the model has to be called equally often everywhere, or the others wait.

    :param count: rows of all processes. :param batch: rows of a micro-batch. :param seed: of the order of the first
        epoch, drawn as one process alone would draw it; None: as they stand.
    """

    def __init__(self, count: int, batch: int, world: World, seed: int | None):
        self._count, self._batch, self._world, self._seed = count, batch, world, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order: Sequence[int] = range(self._count)
        if self._seed is not None:
            order = shuffled(self._count, self._seed + self._epoch)
        for members in batches_of_rank(order, self._batch, self._world.rank, self._world.size):
            yield members or [~order[0]]

    def __len__(self) -> int:
        return len(batches_of_rank(range(self._count), self._batch, self._world.rank, self._world.size))


class _Rows(Dataset[Any]):
    """Each row, and whether it is a filler. :ivar taken: indices of those that were asked for first."""

    def __init__(self, rows: Any):
        self._rows = rows
        self.taken: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Any, bool]:
        if len(self.taken) < REMEMBERED:
            self.taken.append(index)
        return self._rows[index if index >= 0 else ~index], index < 0


class _Collate:
    def __init__(self, collate: Callable[[Any], Any]):
        self._collate = collate

    def __call__(self, given: Sequence[tuple[Any, bool]]) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate([row for row, _ in given])
        return {**batch, FILLER: True} if given[0][1] else batch


def shard_loader(
    rows: Any, batch: int, world: World, collate: Callable[[Any], Any], seed: int | None, device: Any
) -> tuple[DataLoaderShard, list[int]]:
    """The loader of one process, which goes on in the midst of an epoch as any other; and the indices of the rows that
    it has read, as they come. :param device: where batches are put."""
    read = _Rows(rows)
    batches: Any = ShardBatches(len(rows), batch, world, seed)
    on_gpu = device.type == "cuda"  # where a copy from pinned memory is not waited for
    loader = DataLoaderShard(
        read, device=device, batch_sampler=batches, collate_fn=_Collate(collate), pin_memory=on_gpu,
        _non_blocking=on_gpu,
    )  # fmt: skip
    return loader, read.taken
