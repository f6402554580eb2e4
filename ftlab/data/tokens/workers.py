"""Blocks through one process or many, in order: the result is the same."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ftlab.base.heap import collect_seldom
from ftlab.data.sources.blocks import Block
from ftlab.data.tokens.block_encoder import BlockEncoder, EncodedBlock, Recipe
from ftlab.data.tokens.encoder import Encoder
from ftlab.errors import DataError

_WORTH = 96 << 20  # bytes of rows; a worker takes seconds to start, in which one process encodes about this much
_MOST = 16

_mine: BlockEncoder  # of a worker process


def worker_count(workers: int | str, size: int) -> int:
    """Return how many processes to use. :param size: bytes of rows to read."""
    if workers != "auto":
        return int(workers)
    return min(len(os.sched_getaffinity(0)), _MOST) if size >= _WORTH else 1


def encode_in_order(
    blocks: Iterator[Block], encode: BlockEncoder, recipe: Recipe, tokenizer: Any, fast: bool, workers: int
) -> Iterator[tuple[Block, EncodedBlock]]:
    """Yield every block with its encoded form, in the order of the blocks.

    :param encode: for this process; the others build theirs from ``recipe`` and ``tokenizer``.
    :raises DataError: a worker was killed.
    """
    if workers == 1:
        for block in blocks:
            yield block, encode(block)
        return
    # A server without threads or devices forks the workers; forking this process could take along both.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ftlab.data.tokens.block_encoder", "ftlab.data.tokens.workers", "transformers"])
    pending: deque[tuple[Block, Future[EncodedBlock]]] = deque()
    with ProcessPoolExecutor(workers, context, _begin, (recipe, tokenizer, fast)) as pool:
        try:
            for block in blocks:
                pending.append((block, pool.submit(_encode, block)))
                if len(pending) > 2 * workers:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        except BrokenProcessPool:
            raise DataError(
                "A process that prepares the data was killed, most likely for want of memory. Try data.workers=1."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(recipe: Recipe, tokenizer: Any, fast: bool) -> None:
    global _mine
    collect_seldom()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core already
    _mine = BlockEncoder(recipe, Encoder(tokenizer, fast))


def _encode(block: Block) -> EncodedBlock:
    return _mine(block)
