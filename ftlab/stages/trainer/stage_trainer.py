"""The trainer that all stages share: a transformers Trainer over packed rows.

Shape suffixes: N scored positions of a micro-batch, I items that its loss averages over.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from transformers import TrainerCallback

from ftlab.data.packing.collate import Isolation, PackedCollator
from ftlab.data.packing.padded_sizes import padded_sizes
from ftlab.data.packing.store import SHARED, Rows
from ftlab.data.tokens.encoder import Counts
from ftlab.distributed.world import current_world
from ftlab.model.attention.interface import VARIABLE_LENGTH
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import Run
from ftlab.stages.trainer.arguments import training_arguments
from ftlab.stages.trainer.forward import packed_logprobs
from ftlab.stages.trainer.halving import HalvingTrainer
from ftlab.stages.trainer.meter import Meter
from ftlab.stages.trainer.router_loss import RouterLoss, counted_tokens, router_coefficient
from ftlab.stages.trainer.shards import FILLER, shard_loader


class StageTrainer(HalvingTrainer):
    """A transformers Trainer over packed rows. A stage gives :meth:`terms` and, where they differ, the rest.

    :cvar uses_dropout: False where a loss compares two passes, which dropout would tell apart.
    :cvar counts_pairs: whether the loss is a mean over pairs of samples; over scored tokens otherwise.
    :cvar balances_every: routers are balanced over each so manieth sample, where others are there to compare with.
    :ivar rows_taken: where several processes train, indices of the rows that this one has read since its start.
    """

    uses_dropout = True
    counts_pairs = False
    balances_every = 1
    rows_taken: Sequence[int] = ()

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        train_rows: Rows,
        validation_rows: Rows | None,
        files: PhaseFiles,
        callbacks: Sequence[TrainerCallback] = (),
        isolation: Isolation = "position_ids",
    ):
        self.run, self.files, self.isolation = run, files, isolation
        if not self.uses_dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        args = training_arguments(run, str(files.folder))
        if validation_rows is None:
            args.eval_strategy = "no"
        for rows in (train_rows, validation_rows):
            if isinstance(rows, Rows) and rows.shares_prompts:  # those of ppo and grpo are prompts
                rows.attach(SHARED, rows.shared())
        if run.train.compile == "layers":
            self.sizes_compiled = tuple(padded_sizes(train_rows.lengths(), run.train.micro_batch_size))
        flatten = model.config._attn_implementation in VARIABLE_LENGTH
        self._meter = Meter()
        coefficient = router_coefficient(run, model)
        self._router = RouterLoss(model, coefficient) if coefficient else None
        super().__init__(
            model=model,
            args=args,
            data_collator=PackedCollator(
                tokenizer.pad_token_id, flatten, isolation, current_world().size > 1, self.sizes_compiled
            ),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        # The loss below is already a share of the global batch's mean.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Around the whole loss, head included. transformers leaves it to accelerate, which wraps the forward alone,
        and that only once training has begun: a reference computed before would be one of another precision."""
        return self.accelerator.autocast()

    def outputs(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """What a forward gives the loss: log p(target) of every scored position, shape (N,), unless a stage has it
        otherwise. :param model: as it is called in training, perhaps wrapped for several devices.
        """
        return packed_logprobs(model, self.accelerator.unwrap_model(model), batch)

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each item of a micro-batch, shape (I,), and what else is measured of it: by name, shape (I,), NaN
        where an item has no such measure."""
        raise AssertionError("a stage gives its terms")

    def items(self, batch: dict[str, Any]) -> int:
        """How many items the loss of a micro-batch averages over."""
        return int(batch["samples"]) // 2 if self.counts_pairs else len(batch["targets"])

    @cached_property
    def items_of_rows(self) -> Counts:
        """The same of each train row, int64, shape (R,)."""
        rows = cast(Rows, self.train_dataset)
        return rows.counts() // 2 if self.counts_pairs else rows.learned()

    @cached_property
    def _tokens_of_rows(self) -> Counts:
        return cast(Rows, self.train_dataset).lengths()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the global batch's mean, a scalar, however the batch is split."""
        assert not return_outputs, "no caller of ours asks for the outputs"
        items = num_items_in_batch if num_items_in_batch is not None else self.items(inputs)
        outputs, balance = self._balanced_outputs(model, inputs)
        losses_I, measures = self.terms(inputs, outputs)
        if FILLER in inputs:
            self._meter.add_nothing({**measures, **balance})
            return losses_I.sum() * 0
        self._meter.add({**measures, **balance})
        # Ranks average their gradients, and the loss is a sum over them.
        loss = losses_I.sum() / items * self.world.size
        if self._router is not None:  # a mean over the micro-batches of a step
            loss = loss + self._router.coefficient * balance["aux_loss"][0] / self.current_gradient_accumulation_steps
        return loss

    def _balanced_outputs(self, model: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What :meth:`outputs` gives, and as ``aux_loss``, shape (1,), how unevenly the model's routers share out the
        batch's tokens, where that is part of the loss."""
        if self._router is None:
            return self.outputs(model, batch), {}
        with self._router.recording(model) as calls:
            outputs = self.outputs(model, batch)
        return outputs, {"aux_loss": self._router(calls, counted_tokens(batch, self.balances_every))[None]}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        counted = [batch for batch in batch_samples if FILLER not in batch]
        items = sum(self.items(batch) for batch in counted)
        if self.world.size == 1:
            self._tokens_of_step = sum(batch["tokens"] for batch in counted)
            return items
        # Every process knows the rows of all: nobody has to be asked.
        parts = self.rows_of_step(self._next_step)
        own = [row for part in parts[self.world.rank :: self.world.size] for row in part]
        assert items == self.items_of_rows[own].sum(), "it has read other rows than those of the step"
        rows = [row for part in parts for row in part]
        self._tokens_of_step = int(self._tokens_of_rows[rows].sum())
        return int(self.items_of_rows[rows].sum())

    def floating_point_ops(self, inputs: Any) -> int:
        """transformers counts the model's parameters anew at every micro-batch."""
        return int(inputs["input_ids"].numel()) * self._flops_per_token

    @cached_property
    def _flops_per_token(self) -> int:
        return int(super().floating_point_ops({"input_ids": torch.zeros(1)}))

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Tokens without padding; counted once for each global batch, from what the collator knows."""
        self.state.num_input_tokens_seen += self._tokens_of_step
        self._tokens_of_step = 0

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "measures": self._meter.totals}

    def restore_counters(self, state: dict[str, Any]) -> None:
        super().restore_counters(state)
        self._meter.totals = state["measures"]

    def counters_of_others(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        counted = [state["measures"] for state in states]
        totals = {name: torch.stack([measures[name] for measures in counted]).sum(0) for name in counted[0]}
        if not self.world.is_first:  # which has what all had
            totals = {name: torch.zeros_like(total) for name, total in totals.items()}
        return {**super().counters_of_others(states), "measures": totals}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["tokens"] = self.state.num_input_tokens_seen
        if "loss" in logs:
            logs.update(self._meter.means(self.accelerator.reduce))
        super().log(logs, None)  # the start time would add rates that count from the last resume

    def get_train_dataloader(self) -> Any:
        if self.world.size == 1:
            return super().get_train_dataloader()
        batch, seed = self.args.train_batch_size, self.args.data_seed
        loader, self.rows_taken = self._shard(self.train_dataset, batch, seed)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        if self.world.size == 1:
            return super().get_eval_dataloader(eval_dataset)
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._shard(rows, self.args.eval_batch_size, None)[0]

    def _shard(self, rows: Any, batch: int, seed: int | None) -> tuple[Any, list[int]]:
        return shard_loader(rows, batch, self.world, self.data_collator, seed, self.args.device)

    @torch.no_grad()
    def measure(self, eval_dataset: Any = None) -> dict[str, float]:
        """Means over the items of the validation rows, exact however they are batched. Training does not notice: the
        random state is left as it was."""
        self.args.per_device_eval_batch_size = self.rows_at_once
        loader = self.get_eval_dataloader(eval_dataset)
        model: Any = self.model
        was_training = model.training
        model.eval()
        meter = Meter()
        with torch.random.fork_rng(), self.evaluation_bar(len(loader), "batches") as bar:
            for batch in loader:
                batch = self._prepare_inputs(batch)
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
                with self.compute_loss_context_manager():
                    outputs, balance = self._balanced_outputs(model, batch)
                    losses_I, measures = self.terms(batch, outputs)
                if FILLER in batch:
                    meter.add_nothing({"loss": losses_I, **measures, **balance})
                    continue
                meter.add({"loss": losses_I}, is_complete=True)
                meter.add({**measures, **balance})
                bar.advance()
        model.train(was_training)
        self.sharding.release(model)
        means = meter.means(self.accelerator.reduce)
        return {**means, **self.derived(means)}

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """What follows from the means of an evaluation."""
        return {}
