"""A list of items that the processes share out: each works on its part, and all get the results of all, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from ftlab.distributed.world import World

_Item = TypeVar("_Item")


def own_share(items: Sequence[_Item], world: World) -> list[_Item]:
    """This process's part: one item in ``world.size``, from its rank on. Where there are fewer items than processes,
    one without any gets the first, and what it makes of it counts for nothing: models are called by all or by none."""
    return [*items[world.rank :: world.size]] or [*items[:1]]


def join_shares(own: Sequence[_Item], count: int, world: World) -> list[_Item]:
    """What all processes made of their shares, in the order of the items; the results must be picklable. Torch's group
    must have begun.

    :param count: of the items.
    """
    if world.size == 1:
        return [*own]
    import torch.distributed as dist

    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, [*own])
    joined: list[Any] = [None] * count
    for rank, part in enumerate(found):
        joined[rank :: world.size] = part[: len(range(rank, count, world.size))]
    return joined


def sum_over_ranks(tensors: Iterable[Any], world: World) -> None:
    """Add up tensors over all processes, in place; each has as many, in the same order."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
        work.wait()
