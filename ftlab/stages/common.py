"""One packed forward, many losses.

Shape suffixes: B rows, L tokens of the longest row, D hidden size, N scored positions of the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import TrainerCallback, TrainingArguments

from ftlab.data.collate import PackedCollator
from ftlab.data.store import PackedRow, Rows
from ftlab.errors import NotReadyError
from ftlab.model.head import logits_function
from ftlab.model.load import compute_dtype, uses_cpu
from ftlab.schema import Run
from ftlab.stages.checkpoints import WholeCheckpoints
from ftlab.stages.optimizers import projected_modules

LOGIT_ELEMENTS = 1 << 25  # of one chunk of logits: 128 MiB in fp32
_VARIABLE_LENGTH = ("flash_attention_2", "flash_attention_3")


def training_arguments(run: Run, output_dir: str, cls: type[TrainingArguments] = TrainingArguments, **more: Any) -> Any:
    """The run's ``train`` group in transformers' words."""
    train = run.train
    args = cls(
        output_dir=output_dir,
        seed=run.seed,
        data_seed=run.seed,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=train.warmup_ratio,  # transformers 5 takes a share below 1 here
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        adam_beta1=train.adam_betas[0],
        adam_beta2=train.adam_betas[1],
        num_train_epochs=train.epochs,
        max_steps=train.max_steps if train.max_steps is not None else -1,
        per_device_train_batch_size=train.micro_batch_size,
        per_device_eval_batch_size=train.micro_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        activation_checkpointing=train.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=compute_dtype(run) == torch.bfloat16,
        fp16=compute_dtype(run) == torch.float16,
        use_cpu=uses_cpu(run),
        logging_steps=train.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it waits for the device at every step, and hides what it finds
        save_steps=train.save_steps,
        save_total_limit=train.save_total_limit,
        eval_strategy="steps",
        eval_steps=run.eval.steps,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=not uses_cpu(run),
        optim_target_modules=projected_modules(train.optimizer),
        **more,
    )
    args.loraplus_ratio = run.lora.loraplus_ratio if run.method.name == "lora" else None  # type: ignore[attr-defined]
    # One process drives one device; with more in sight transformers would wrap the model in DataParallel.
    args._n_gpu = min(args.n_gpu, 1)
    return args


class StageTrainer(WholeCheckpoints):
    """A transformers Trainer over packed rows. A stage gives :meth:`terms` and, where they differ, the rest.

    :cvar uses_dropout: False where a loss compares two passes, which dropout would tell apart.
    """

    uses_dropout = True

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        train_rows: Rows,
        validation_rows: Rows | None,
        output_dir: str,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        self.run = run
        if not self.uses_dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        args = training_arguments(run, output_dir)
        if validation_rows is None:
            args.eval_strategy = "no"
        flatten = model.config._attn_implementation in _VARIABLE_LENGTH
        self._meter = Meter()
        super().__init__(
            model=model,
            args=args,
            data_collator=PackedCollator(tokenizer.pad_token_id, flatten),
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        # The loss below is already a share of the global batch's mean.
        self.model_accepts_loss_kwargs = self.loss_is_scaled_for_ga = True

    def begin(self, progress: Callable[..., Any]) -> None:
        """Find out what the first step needs. :param progress: ``(description, total, unit)`` -> a bar."""

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
        """How many items the loss of a micro-batch averages over; scored tokens unless a stage says otherwise."""
        return len(batch["targets"])

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the global batch's mean, a scalar, however the batch is split."""
        assert not return_outputs, "no caller of ours asks for the outputs"
        items = num_items_in_batch if num_items_in_batch is not None else self.items(inputs)
        losses_I, measures = self.terms(inputs, self.outputs(model, inputs))
        self._meter.add(measures)
        # Ranks average their gradients, and the loss is a sum over them.
        return losses_I.sum() / items * self.accelerator.num_processes

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        items = sum(self.items(batch) for batch in batch_samples)
        self._tokens_of_step = sum(batch["tokens"] for batch in batch_samples)
        if self.accelerator.num_processes == 1:
            return items
        counts = self.accelerator.gather(torch.tensor([[items, self._tokens_of_step]], device=device)).sum(0)
        self._tokens_of_step = int(counts[1])
        return counts[0]

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Tokens without padding; counted once for each global batch, from what the collator knows."""
        self.state.num_input_tokens_seen += self._tokens_of_step
        self._tokens_of_step = 0

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "measures": self._meter.totals}

    def restore_counters(self, state: dict[str, Any]) -> None:
        super().restore_counters(state)
        self._meter.totals = state["measures"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["tokens"] = self.state.num_input_tokens_seen
        if "loss" in logs:
            logs.update(self._meter.means(self.accelerator.reduce))
        super().log(logs, None)  # the start time would add rates that count from the last resume

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Means over the items of the validation rows, exact however they are batched. Training does not notice: the
        random state is left as it was."""
        loader = self.get_eval_dataloader(eval_dataset)
        model: Any = self.model
        was_training = model.training
        model.eval()
        meter = Meter()
        with torch.random.fork_rng():
            for batch in loader:
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    losses_I, measures = self.terms(batch, self.outputs(model, batch))
                meter.add({"loss": losses_I}, of_all=True)
                meter.add(measures)
        model.train(was_training)
        means = meter.means(self.accelerator.reduce)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in {**means, **self.derived(means)}.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """What follows from the means of an evaluation."""
        return {}


class Meter:
    """Means of measures since they were last asked for, summed on the device without waiting for it.

    ``totals`` has the sum and the count of each, shape (2,).
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}

    def add(self, measures: dict[str, Tensor], of_all: bool = False) -> None:
        """:param measures: one value for each item, by name; NaN where an item has none.
        :param of_all: every item has one, and what is NaN is wrong and must be seen.
        """
        for name, values_I in measures.items():
            values_I = values_I.detach()
            if values_I.device.type != "mps":  # which has no fp64
                values_I = values_I.double()
            has_I = torch.ones_like(values_I, dtype=torch.bool) if of_all else ~values_I.isnan()
            total = values_I.sum() if of_all else values_I.nansum()
            found = torch.stack([total, has_I.sum().to(values_I.dtype)])
            self.totals[name] = self.totals[name] + found if name in self.totals else found

    def means(self, reduce: Callable[..., Any]) -> dict[str, float]:
        """The means, over all ranks, and begin anew. :param reduce: sums a tensor over the ranks."""
        if not self.totals:
            return {}
        names = sorted(self.totals)
        totals = reduce(torch.stack([self.totals[name] for name in names]), "sum").tolist()
        self.totals = {}
        return {name: total / count for name, (total, count) in zip(names, totals) if count}


def packed_logprobs(model: Any, unwrapped: Any, batch: dict[str, Tensor], smoothing: float = 0.0) -> Tensor:
    """log p(target) of every scored position, shape (N,), fp32; the full logits never exist.

    :param model: the model as it is called in training (perhaps wrapped for several devices).
    :param unwrapped: the same model without wrapping. :param smoothing: see :func:`logprobs_of`.
    """
    hidden_BLD = packed_hidden(model, batch)
    hidden_ND = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])[batch["scored"]]
    head = unwrapped.get_output_embeddings()
    return logprobs_of(hidden_ND, batch["targets"], logits_function(unwrapped), head, smoothing)


def packed_hidden(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The last layer's hidden states of packed rows, shape (B, L, D)."""
    # No mask, and no cache, which switches the isolation of packed samples off.
    return last_hidden(model, input_ids=batch["input_ids"], position_ids=batch["position_ids"])


def last_hidden(model: Any, **inputs: Tensor) -> Tensor:
    """The last layer's hidden states, after its final norm, shape (B, L, D); those of the other layers are not kept.

    The whole model is called, not its decoder, because wrappers for several devices do their work in that call.

    :param model: a causal language model as it is called in training: bare, with adapters, or wrapped.
    :param inputs: what its forward takes.
    """
    decoder: Any = extract_model_from_parallel(model).get_decoder()
    states: list[Tensor] = []
    handle = decoder.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        handle.remove()
    (hidden_BLD,) = states
    return hidden_BLD


def logprobs_of(
    hidden_ND: Tensor, targets_N: Tensor, logits: Callable[[Tensor], Tensor], head: Any, smoothing: float = 0.0
) -> Tensor:
    """log softmax of the logits at the targets, shape (N,), in chunks that are computed again in the backward.

    :param smoothing: of the labels: this share of each target is spread over the whole vocabulary, so that what comes
        is (1 - s) log p(target) + s mean_v log p(v) (https://arxiv.org/abs/1512.00567, section 7).
    """
    size = max(LOGIT_ELEMENTS // head.weight.shape[0], 1)

    def part(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        logits_nV = logits(hidden_nD)
        found_n = logits_nV.gather(-1, targets_n[:, None])[:, 0]
        if smoothing:
            found_n = (1 - smoothing) * found_n + smoothing * logits_nV.mean(-1)
        return found_n - logits_nV.logsumexp(-1)

    chunks = list(zip(hidden_ND.split(size), targets_N.split(size)))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([part(*chunk) for chunk in chunks])
    return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


@torch.no_grad()
def probe_isolation(model: Any, row: PackedRow, collator: PackedCollator) -> float:
    """Whether packed samples see each other: the largest change in any later sample's hidden states when the first
    sample's tokens are replaced. Isolated samples change by nothing at all, in every precision.

    :raises NotReadyError: they do see each other.
    """
    if len(row.samples) < 2:
        return 0.0
    was_training = model.training
    model.eval()
    batch = collator([row])
    first = len(row.samples[0].input_ids)
    ids = batch["input_ids"].to(model.device)
    other = ids.clone()
    other[:, :first] = other[:, :first].flip(1).roll(1, 1) // 2
    positions = batch["position_ids"].to(model.device)
    before, after = (last_hidden(model, input_ids=i, position_ids=positions)[:, first:] for i in (ids, other))
    model.train(was_training)
    change = (before - after).abs().max().item()
    if change > 1e-6:
        raise NotReadyError(
            f"Packed samples see each other under model.attention={model.config._attn_implementation}: hidden states "
            f"change by {change:.2g}. Use model.attention=sdpa, or data.packing=false."
        )
    return change
