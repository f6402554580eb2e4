"""Memory that runs out in a step: the step is taken again, with the same rows in smaller micro-batches.

The rows of an optimizer step, their order and the number that the loss is divided by stay as they are; only how many of
them a forward takes changes, so that gradients are sums of the same terms in another order. (transformers'
``auto_find_batch_size`` begins the training loop anew with a smaller batch instead, on weights that have been trained
already, with another global batch and another number of steps.)

Of several processes, the one whose memory runs out cannot tell the others, which wait for its gradients. It leaves a
note of the smaller size, and all of them start again from the last checkpoint: sizes belong to steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from ftlab.base.machine import has_memory_limit
from ftlab.data.packing.store import Rows
from ftlab.errors import OutOfMemoryError, StartAgainError, first_line
from ftlab.model.checkpointing import enable_checkpointing
from ftlab.stages.trainer.batch_sizes import MICRO_BATCH, BatchSizes, Change, half, initial_sizes
from ftlab.stages.trainer.compiling import CompilingTrainer
from ftlab.stages.trainer.meter import Meter
from ftlab.stages.trainer.optimizers import bytes_of_states
from ftlab.stages.trainer.out_of_memory import advice, is_out_of_memory
from ftlab.stages.trainer.shards import FILLER

T = TypeVar("T")


class HalvingTrainer(CompilingTrainer):
    """A step that memory is too small for is taken again in halves, as ``train.on_oom`` says.

    :ivar sizes: how many rows a forward takes.
    """

    _meter: Meter
    current_gradient_accumulation_steps: int  # set by the loop

    def __init__(self, *args: Any, **more: Any) -> None:
        self.sizes = BatchSizes(initial_sizes(self.run))
        self._tell: Callable[[str], Any] = lambda line: None
        self._leave_note: Callable[[Change], Any] = lambda change: None
        super().__init__(*args, **more)
        self._tr_loss = torch.zeros((), device=self.args.device)  # as the loop begins too

    def keep_within_memory(
        self, sizes: BatchSizes, tell: Callable[[str], Any], leave_note: Callable[[Change], Any]
    ) -> None:
        """:param sizes: what earlier starts came to. :param tell: takes a line for the user.
        :param leave_note: takes a change that the next start of several processes has to know.
        """
        self.sizes, self._tell, self._leave_note = sizes, tell, leave_note

    @property
    def rows_at_once(self) -> int:
        return self.sizes.at(MICRO_BATCH, self.state.global_step)

    @property
    def _next_step(self) -> int:
        return self.state.global_step + 1

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        at = first = len(self._parts)  # which batch of the step it is
        if at == 0:
            self._begun = StepStart(self)

        def take() -> Tensor:
            for earlier in range(first, at):  # of a step that is taken again: the loop has added their losses before
                self._tr_loss += self._take(model, earlier, None, num_items_in_batch)
            return self._take(model, at, inputs, num_items_in_batch)

        def go_back() -> None:
            nonlocal first
            first = 0
            self._begun.restore()

        return self.within_memory(take, go_back, MICRO_BATCH, self._next_step)

    def _take(self, model: Any, index: int, batch: Any, items: Any) -> Tensor:
        """The loss of one of the step's batches, with its backward. :param batch: the whole of it."""
        size = self.sizes.at(MICRO_BATCH, self._next_step)
        is_filler = batch is not None and FILLER in batch
        if size >= self.args.per_device_train_batch_size or is_filler:
            return super().training_step(model, batch, items)
        own = self.rows_of_step(self._next_step)[self.world.rank :: self.world.size]
        return self._take_rows(model, own[index], size, items)

    def _take_rows(self, model: Any, rows: list[int], size: int, items: Any) -> Tensor:
        dataset: Any = self.train_dataset
        parts = [self.data_collator([dataset[row] for row in rows[i : i + size]]) for i in range(0, len(rows), size)]
        shared = self.of_whole_batch(model, parts)
        before, accumulation = len(self._parts), self.current_gradient_accumulation_steps
        self.current_gradient_accumulation_steps = accumulation * len(parts)
        try:
            for part in parts[:-1]:
                with self._without_sums_of_ranks(model):
                    super().training_step(model, {**part, **shared}, items)
            super().training_step(model, {**parts[-1], **shared}, items)
        finally:
            self.current_gradient_accumulation_steps = accumulation
        loss = torch.stack(self._parts[before:]).sum()
        self._parts[before:] = [loss]
        return loss

    @contextmanager
    def _without_sums_of_ranks(self, model: Any) -> Iterator[None]:
        """As between the micro-batches of a step: gradients are summed over the ranks once, at its end."""
        state = self.accelerator.gradient_state
        is_last = state.sync_gradients
        state._set_sync_gradients(False)
        try:
            with self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(is_last)

    def of_whole_batch(self, model: Any, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """What the loss of each part needs to know of all of them, to join each; a stage whose loss is no sum over
        items says what."""
        return {}

    def within_memory(self, attempt: Callable[[], T], go_back: Callable[[], Any], key: str, step: int) -> T:
        """What ``attempt`` returns, tried again with a smaller batch as long as memory runs out.

        :param go_back: undoes what an attempt has done. :param key: the size that is halved, from ``step`` on.
        :raises OutOfMemoryError: there is nothing to halve, or it is not wanted.
        """
        while True:
            try:
                return attempt()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Behind the except the error is gone, and with its frames all that the forward has kept.
            go_back()
            clear_device_cache(garbage_collection=True)
            self._halve(key, step, reason)

    def _halve(self, key: str, step: int, reason: str) -> None:
        size, when = self.sizes.at(key, step), f"step {step}" if step else "the first step"
        if self.run.train.on_oom == "stop" or size == 1 or self.sharding.wraps_early:
            why = ""
            if size == 1:
                why = f" {key} is 1 already, and nothing is left to halve."
            elif self.sharding.wraps_early and not self.sharding.is_in_place:
                why = " DeepSpeed cannot take back what it has added up of a step."
            elif self.sharding.wraps_early:
                why = " Sharded weights are not computed with in smaller micro-batches."
            raise OutOfMemoryError(f"Out of memory in {when} ({reason}).{why} {advice(self.run, size, key)}")
        smaller = half(size)
        twice = ""
        if key == MICRO_BATCH:
            train = self.run.train
            whole = train.micro_batch_size * train.gradient_accumulation_steps
            twice = f", accumulation {-(-whole // size)} -> {-(-whole // smaller)}"
        same = "the same rows and global batch" if key == MICRO_BATCH else "the same draws of the same prompts"
        if self.world.size == 1:
            self.sizes.halve(key, step)
            self._tell(f"out of memory in {when}: {key} {size} -> {smaller}{twice} from here on; {same} (train.on_oom)")
            return
        self._leave_note({"step": step, key: smaller})
        raise StartAgainError(
            f"out of memory in {when} on rank {self.world.rank}: {key} {size} -> {smaller}{twice} from there on; "
            f"{same} (train.on_oom). All processes go on with that from the last checkpoint"
        )

    # -------------------------------------------------------------------------------------- the longest batch, first

    def try_longest_batch(self, step: int) -> str | None:
        """Take a forward and a backward of the longest rows before anything else, and forget them: what does not fit is
        found out in the first minute. Returns what was tried; None where nothing was.

        Only where memory that has run out is an error: on a CPU without a limit the system would kill the process.

        :param step: of the checkpoint that the training goes on from, or 0.
        """
        rows: Any = self.train_dataset
        if not isinstance(rows, Rows) or not (self.args.device.type != "cpu" or has_memory_limit()):
            return None
        # The backward of a wrapper takes a step, which cannot be taken back.
        if self.sharding.wraps_early and not self.sharding.is_in_place:
            return None
        first = step + 1 if step else 0
        self._tr_loss = torch.zeros((), device=self.args.device)
        begun, model = StepStart(self), self.model
        was_training = model.training
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        if self.args.activation_checkpointing:  # which transformers switches on when training begins
            enable_checkpointing(model, self.args.activation_checkpointing_kwargs)
        try:
            found = self.within_memory(lambda: self._try_longest(rows), begun.restore, MICRO_BATCH, first)
        finally:
            begun.restore()
            model.train(was_training)
            if self.args.activation_checkpointing:
                model.activation_checkpointing_disable()
        clear_device_cache(garbage_collection=True)
        return found

    def _try_longest(self, rows: Rows) -> str:
        size = self.sizes.smallest(MICRO_BATCH)
        longest = rows.longest(min(size, len(rows)))
        batch = self.data_collator([rows[index] for index in longest])
        trained = [p for p in self.model.parameters() if p.requires_grad]
        # What is there in a later step: the optimizer's states, and gradients of the micro-batch before.
        optimizer, device = self.run.train.optimizer, self.args.device
        is_in_host = optimizer.startswith("paged_") and device.type == "cuda"
        elements = sum(self.sharding.local(parameter).numel() for parameter in trained)
        kept = 0 if is_in_host else int(bytes_of_states(optimizer, elements))
        states = torch.empty(kept, dtype=torch.uint8, device=device)
        if self.args.gradient_accumulation_steps > 1 or size < self.args.per_device_train_batch_size:
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
        super().training_step(self.model, {**batch, **self.placeholders(batch)}, self.items(batch))
        del states
        return f"{len(longest)} of {max(rows[index].length for index in longest):,} tokens"

    def placeholders(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Values in place of what rows have only once the trainer has begun."""
        return {}

    def items(self, batch: dict[str, Any]) -> int:
        raise AssertionError("a stage says so")

    # ------------------------------------------------------------------------------------------------- checkpoints

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "batch_sizes": self.sizes.changes}

    def restore_counters(self, state: dict[str, Any]) -> None:
        super().restore_counters(state)
        self.sizes.add(state.get("batch_sizes", []))  # checkpoints of earlier versions have none


class StepStart:
    """What a step changes before its gradients are used, as it was when the step began."""

    def __init__(self, trainer: Any):
        self._trainer = trainer
        self._random = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        device = trainer.args.device
        self._device_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._loss, self._measures = trainer._tr_loss.clone(), dict(trainer._meter.totals)

    def restore(self) -> None:
        """Drop the gradients too: a backward that was cut off leaves them in the middle."""
        trainer, (python, numpy, of_torch) = self._trainer, self._random
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(of_torch)
        if self._device_random is not None:
            torch.cuda.set_rng_state(self._device_random, trainer.args.device)
        trainer._tr_loss, trainer._meter.totals, trainer._parts = self._loss.clone(), dict(self._measures), []
        for parameter in trainer.model.parameters():
            parameter.grad = None
