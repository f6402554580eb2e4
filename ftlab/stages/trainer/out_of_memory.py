"""Memory that runs out: how it is told from other errors, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ftlab.errors import FtlabError, OutOfMemoryError, first_line
from ftlab.schema import Run
from ftlab.stages.trainer.batch_sizes import MICRO_BATCH
from ftlab.stages.trainer.remedies import first_of_each_kind

# What runs out without an exception type of its own: torch's allocator for CPUs, cuBLAS, Apple's GPUs, C++.
_WORDS = (
    "DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory", "std::bad_alloc",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device has no memory left, or the system gives this process no more of it."""
    import torch

    if isinstance(error, FtlabError):
        return False  # it is told in words already
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def told_in_words(run: Run) -> Iterator[None]:
    """:raises OutOfMemoryError: memory ran out within, where no smaller batch is tried."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    else:
        return
    raise OutOfMemoryError(f"Out of memory ({reason}). {advice(run, run.train.micro_batch_size)}")


def advice(run: Run, size: int, key: str = MICRO_BATCH) -> str:
    """Return what would take less memory, none of which the run has already. :param size: of its batches now.
    :param key: which batches."""
    train = run.train
    if key == MICRO_BATCH:
        rows = train.micro_batch_size * train.gradient_accumulation_steps
        now = next(one for one in range(size, 0, -1) if rows % one == 0)
        run = run.with_values({"train.micro_batch_size": now, "train.gradient_accumulation_steps": rows // now})
    ways = [one.override for one in first_of_each_kind(run)]
    if key != MICRO_BATCH:
        ways = [way for way in ways if not way.startswith("train.micro_batch_size")]
        ways = [f"eval.batch_size={(size + 1) // 2}"] * (size > 1) + ways
    return f"What takes less memory: {'; '.join(ways)}. Add it to the command together with run.if_exists=new."
