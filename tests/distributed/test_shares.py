"""What processes share out: each item to one of them, and the results of all in order."""

from __future__ import annotations

import multiprocessing
import socket

import pytest

from ftlab.distributed.shares import join_shares, own_share, sum_over_ranks
from ftlab.distributed.world import World


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_item_goes_to_one_process(size):
    items = [*range(7)]
    shares = [own_share(items, World(rank, size, rank)) for rank in range(size)]
    taken = shares[: len(items)]
    assert sorted(item for share in taken for item in share) == items
    assert all(share == [0] for share in shares[len(items) :]), "one of several without any works for nothing"
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def one_of_three(rank: int, port: int, results: multiprocessing.Queue) -> None:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    world = World(rank, 3, rank)
    found = []
    for count in (7, 2):
        share = own_share([f"item {i}" for i in range(count)], world)
        found.append(join_shares([word.upper() for word in share], count, world))
    sums = [torch.tensor([1.0, rank]), torch.tensor(rank)]
    sum_over_ranks(sums, world)
    results.put((rank, found, [one.tolist() for one in sums]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.distributed
def test_three_processes_get_the_results_of_all():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    begun = [context.Process(target=one_of_three, args=(rank, port, results)) for rank in range(3)]
    for process in begun:
        process.start()
    found = sorted(results.get(timeout=60) for _ in begun)
    for process in begun:
        process.join()
    seven, two = [f"ITEM {i}" for i in range(7)], ["ITEM 0", "ITEM 1"]
    assert [one[1:] for one in found] == [([seven, two], [[3.0, 3.0], 3])] * 3
