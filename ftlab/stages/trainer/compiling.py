"""Layers compiled as ``train.compile`` has it: when, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ftlab.data.packing.padded_sizes import padded_size
from ftlab.data.packing.store import Rows
from ftlab.errors import NotReadyError, first_line
from ftlab.model.compiled import compile_layers
from ftlab.stages.trainer.checkpoints import WholeCheckpoints
from ftlab.stages.trainer.divergence import order_of_epoch


class CompilingTrainer(WholeCheckpoints):
    """Says for which sizes it compiles, which takes long, and how long it took.

    :ivar sizes_compiled: the numbers of tokens that micro-batches are padded to; none where nothing is compiled.
    """

    sizes_compiled: tuple[int, ...] = ()

    def __init__(self, *args: Any, **more: Any) -> None:
        self._seen: set[int] = set()
        self._tell_compiling: Callable[[str], Any] = lambda line: None
        super().__init__(*args, **more)
        if self.sizes_compiled:
            compile_layers(self.model, len(self.sizes_compiled))

    def describe_sizes(self) -> str:
        """What micro-batches are padded to, and what that costs in the first epoch."""
        rows, size = cast(Rows, self.train_dataset), self.args.per_device_train_batch_size
        assert self.args.data_seed is not None
        order = order_of_epoch(0, len(rows), self.args.data_seed)
        tokens = np.add.reduceat(rows.lengths()[order], np.arange(0, len(order), size))
        places = np.array([padded_size(int(count), self.sizes_compiled) for count in tokens])
        sizes = " or ".join(f"{size:,}" for size in np.unique(places))
        return f"micro-batches are padded to {sizes} tokens, {1 - tokens.sum() / places.sum():.1%} of what is computed"

    def tell_compiling(self, tell: Callable[[str], Any]) -> None:
        """:param tell: takes a line for the user."""
        self._tell_compiling = tell

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        if not self.sizes_compiled:
            return super().training_step(model, inputs, num_items_in_batch)
        size = int(inputs["input_ids"].numel())
        is_new = size not in self._seen
        self._seen.add(size)
        if is_new:
            self._tell_compiling(f"compiling the layers for micro-batches of {size:,} tokens ...")
        begun = time.monotonic()
        try:
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
            family = self.model.config.model_type
            raise NotReadyError(
                f"torch cannot compile the layers of {family} for {size:,} tokens: {first_line(error)}. Use "
                "train.compile=none."
            ) from error
        if is_new:
            seconds = time.monotonic() - begun
            self._tell_compiling(f"compiled for {size:,} tokens, with the first step of that size, in {seconds:.0f} s")
        return loss
