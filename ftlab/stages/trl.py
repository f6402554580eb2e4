"""``train.engine=trl``: TRL's own trainers on the same rows, thinly mapped. What of the config they cannot do,
:mod:`ftlab.config.rules` refuses.

Batches hold the same samples in the same order as ours, and metrics have TRL's names. What differs is TRL's: every
sample is padded to the longest of its batch, the reference is asked in every step, and the loss is a mean of the
micro-batches' means, which is the mean of the global batch where all have equally many pairs or answers
(``data.packing=false``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from ftlab.data.packing.collate import Isolation
from ftlab.data.packing.store import IGNORE, PackedRows, Rows, Sample
from ftlab.errors import NotReadyError
from ftlab.model.load import load_reference
from ftlab.model.roles import has_adapter
from ftlab.model.score import score_of
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import DpoStage, KtoStage, RmStage, Run
from ftlab.stages.kto import WithMismatched
from ftlab.stages.trainer.arguments import training_arguments
from ftlab.stages.trainer.checkpoints import WholeCheckpoints
from ftlab.stages.trainer.forward import last_hidden
from ftlab.stages.trainer.router_loss import RouterLoss, router_coefficient
from ftlab.stages.trl_batches import cut_after_answer, packed_dataset, pad_samples

REFERENCE = "ref"  # what TRL calls its copy of the adapter that it starts from
_LOSS_NAMES = {"exo": "exo_pair", "nca": "nca_pair"}


class TrlEngine(WholeCheckpoints):
    """A trainer of TRL with the constructor of a :class:`ftlab.stages.trainer.stage_trainer.StageTrainer`.

    :cvar arguments: TRL's class of them.
    """

    arguments: ClassVar[type[TrainingArguments]]
    _total_train_tokens: int  # of TRL's trainers
    _metrics: dict[str, dict[str, list[float]]]

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        train_rows: PackedRows,
        validation_rows: PackedRows | None,
        files: PhaseFiles,
        callbacks: Sequence[TrainerCallback] = (),
        isolation: Isolation = "position_ids",
    ):
        self.run, self.files, self.isolation = run, files, isolation
        self._coefficient = router_coefficient(run, model)
        args = training_arguments(run, str(files.folder), self.arguments, **self.options())
        if validation_rows is None:
            args.eval_strategy = "no"
        with _keep_start_weights(model):
            super().__init__(
                model=model,
                args=args,
                callbacks=list(callbacks),
                processing_class=tokenizer,
                **self.data(tokenizer, train_rows, validation_rows),
                **self.extra_arguments(model),
            )

    def options(self) -> dict[str, Any]:
        """Return the arguments that only this trainer of TRL's has."""
        return {"include_num_input_tokens_seen": "non_padding", "router_aux_loss_coef": self._coefficient}

    def extra_arguments(self, model: Any) -> dict[str, Any]:
        """Return further arguments of the trainer's constructor."""
        return {}

    def data(self, tokenizer: Any, train: PackedRows, validation: PackedRows | None) -> dict[str, Any]:
        """The rows as TRL samples them: by their numbers; the collator finds them."""
        splits: dict[str, Rows] = {"train": self.rows(train)}
        if validation is not None:
            splits["validation"] = self.rows(validation)
        numbers = {
            name: Dataset.from_dict({"split": [name] * len(rows), "row": list(range(len(rows)))})
            for name, rows in splits.items()
        }

        def collate(items: list[dict[str, Any]]) -> dict[str, Tensor]:
            rows = [splits[item["split"]][item["row"]] for item in items]
            columns = {name: np.concatenate([row.columns[name] for row in rows]) for name in rows[0].columns}
            return self.batch([sample for row in rows for sample in row.samples], columns, tokenizer.pad_token_id)

        return {
            "train_dataset": numbers["train"],
            "eval_dataset": numbers.get("validation"),
            "data_collator": collate,
        }

    def rows(self, rows: PackedRows) -> Rows:
        return rows

    def batch(self, samples: list[Sample], columns: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
        """The samples of a micro-batch of rows as this trainer wants them."""
        raise AssertionError("a stage gives its batch")

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        """TRL would tokenize here."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """TRL would write a README into the run directory with each checkpoint."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["tokens"] = self.state.num_input_tokens_seen
        super().log(logs, None)  # the start time would add rates that count from the last resume

    def items(self, batch: dict[str, Any]) -> int:
        """How many items the loss of a micro-batch averages over: pairs, of chosen above rejected answers, unless a
        stage says otherwise."""
        return len(batch["input_ids"]) // 2

    @torch.no_grad()
    def measure(self, eval_dataset: Any = None) -> dict[str, float]:
        """Means over the items of the validation rows, loss and all else that TRL measures, however they are batched;
        TRL's own would be means of the batches' means. The model stays in evaluation mode, as TRL's log wants it."""
        model: Any = self.model
        model.eval()
        values = self._metrics["eval"]
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        loader = self.get_eval_dataloader(eval_dataset)
        with self.evaluation_bar(len(loader), "batches") as bar:
            for inputs in loader:
                batch = self._prepare_inputs(inputs)
                count = self.items(batch)
                values.clear()
                with self.compute_loss_context_manager():
                    values["loss"] = [self.compute_loss(model, batch).item()]
                values.pop("num_tokens", None)  # of training
                if "aux_loss" in values:  # which has no part in an evaluation's loss
                    values["loss"][0] -= self._coefficient * values["aux_loss"][0]
                for name, (value,) in values.items():
                    weight = 1 if name == "aux_loss" else count  # a batch has one, however many items
                    sums[name] = sums.get(name, 0.0) + value * weight
                    counts[name] = counts.get(name, 0.0) + weight
                bar.advance()
        values.clear()
        names = sorted(sums)
        table = torch.tensor([[sums[name] for name in names], [counts[name] for name in names]], dtype=torch.float64)
        if self.world.size > 1:
            table = self.accelerator.reduce(table.to(self.args.device), "sum").cpu()
        return {name: total / count for name, total, count in zip(names, *table.tolist())}

    def counters(self) -> dict[str, Any]:
        """TRL's own too, which it begins anew at each start."""
        own = {"num_tokens": self._total_train_tokens, "metrics": dict(self._metrics["train"])}
        return {**super().counters(), "trl": own}

    def restore_counters(self, state: dict[str, Any]) -> None:
        super().restore_counters(state)
        self._total_train_tokens = state["trl"]["num_tokens"]
        self._metrics["train"].update(state["trl"]["metrics"])


class TrlSftTrainer(TrlEngine, SFTTrainer):
    """Packed rows as they are, without padding; where positions do not keep samples apart, a row for each sample."""

    arguments = SFTConfig

    def options(self) -> dict[str, Any]:
        is_padding_free = self.isolation == "position_ids"
        return {
            "dataset_kwargs": {"skip_prepare_dataset": True},
            "padding_free": is_padding_free,
            "packing": False,
            "max_length": None,
            "router_aux_loss_coef": self._coefficient,
            "include_num_input_tokens_seen": "all" if is_padding_free else "non_padding",
        }

    def batch(self, samples: list[Sample], columns: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
        found = pad_samples(samples, pad_id)
        labels = found["input_ids"].where(found.pop("completion_mask") == 1, IGNORE)
        return {**found, "labels": labels}

    def data(self, tokenizer: Any, train: PackedRows, validation: PackedRows | None) -> dict[str, Any]:
        if self.isolation != "position_ids":
            return super().data(tokenizer, train, validation)
        return {
            "train_dataset": packed_dataset(train),
            "eval_dataset": None if validation is None else packed_dataset(validation),
        }

    def extra_arguments(self, model: Any) -> dict[str, Any]:
        _check_head(model)
        return {}

    def items(self, batch: dict[str, Any]) -> int:
        return int((batch["labels"][:, 1:] != -100).sum())


class TrlRewardTrainer(TrlEngine, RewardTrainer):
    """TRL's loss on our model, which has the head of a sequence classifier beside that of a language model."""

    arguments = RewardConfig

    def options(self) -> dict[str, Any]:
        return {"include_num_input_tokens_seen": "non_padding"}

    def batch(self, samples: list[Sample], columns: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
        assert isinstance(self.run.stage, RmStage)
        cut = [cut_after_answer(sample) for sample in samples]
        found = pad_samples(cut[0::2] + cut[1::2], pad_id)
        del found["completion_mask"]
        return {**found, "margin": torch.full((len(cut) // 2,), self.run.stage.margin)}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        def scored(input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
            """Scores at each sample's last token, shape (S, 1). A classifier of transformers would look for the last
            token that is not the padding's, and where that is the end token stop one before it."""
            hidden_SLD = last_hidden(model, input_ids=input_ids, attention_mask=attention_mask)
            places_S = torch.arange(len(input_ids), device=input_ids.device)
            hidden_SD = hidden_SLD[places_S, attention_mask.sum(1) - 1]
            logits: Any = score_of(self.accelerator.unwrap_model(model))(hidden_SD.float())
            return SequenceClassifierOutput(logits=logits)

        if not self._coefficient:
            return super().compute_loss(scored, inputs, return_outputs, num_items_in_batch)
        router = RouterLoss(self.accelerator.unwrap_model(model), self._coefficient)
        with router.recording(model) as calls:  # TRL has no such term for rewards
            loss = super().compute_loss(scored, inputs, return_outputs, num_items_in_batch)
        balance = router(calls, inputs["attention_mask"].reshape(-1))
        self._metrics["train" if model.training else "eval"]["aux_loss"].append(balance.item())
        return loss + self._coefficient * balance


class TrlDpoTrainer(TrlEngine, DPOTrainer):
    """The losses that TRL has with a reference."""

    arguments = DPOConfig

    def options(self) -> dict[str, Any]:
        stage = self.run.stage
        assert isinstance(stage, DpoStage)
        return {
            **super().options(),
            "beta": stage.beta,
            "loss_type": [_LOSS_NAMES.get(stage.loss_type, stage.loss_type)],
            "label_smoothing": stage.label_smoothing,
        }

    def extra_arguments(self, model: Any) -> dict[str, Any]:
        assert isinstance(self.run.stage, DpoStage)
        _check_head(model)
        if self.run.stage.reference_model is None:
            return {"ref_model": _reference(model)}
        reference = load_reference(self.run, self.run.stage.reference_model)
        return {"ref_model": reference.get_base_model() if has_adapter(reference) else reference}

    def batch(self, samples: list[Sample], columns: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
        return pad_samples(samples[0::2] + samples[1::2], pad_id)


class TrlKtoTrainer(TrlEngine, KTOTrainer):
    """The KL estimate is of our mismatched answers, paired over the data set; TRL's are rotated in the batch."""

    arguments = KTOConfig

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.args.train_sampling_strategy = "random"  # which TRL refuses for its own pairs, made of neighbours

    def options(self) -> dict[str, Any]:
        stage = self.run.stage
        assert isinstance(stage, KtoStage)
        return {
            **super().options(),
            "beta": stage.beta,
            "desirable_weight": stage.desirable_weight,
            "undesirable_weight": stage.undesirable_weight,
        }

    def extra_arguments(self, model: Any) -> dict[str, Any]:
        _check_head(model)
        return {"ref_model": _reference(model)}

    def items(self, batch: dict[str, Any]) -> int:
        return len(batch["label"])

    def rows(self, rows: PackedRows) -> Rows:
        return WithMismatched(rows, self.run.seed, self.run.data.max_length)

    def batch(self, samples: list[Sample], columns: dict[str, Any], pad_id: int) -> dict[str, Tensor]:
        mismatched = {f"KL_{name}": found for name, found in pad_samples(samples[1::2], pad_id).items()}
        return {
            **pad_samples(samples[0::2], pad_id),
            **mismatched,
            "label": torch.from_numpy(columns["label"][0::2] != 0),
        }


def _reference(model: Any) -> Any:
    """A frozen copy that shares what does not train; None for an adapter, which TRL copies itself."""
    if has_adapter(model):
        return None
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


def _check_head(model: Any) -> None:
    """:raises NotReadyError: part of the output layer trains beside its weight, which is all that TRL looks at."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(model.get_output_embeddings(), BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise NotReadyError(
            "train.engine=trl cannot train an adapter or new tokens on the output layer: it reads the layer's weight "
            "past them. Use train.engine=ftlab, or leave the layer out of lora.target_modules."
        )


@contextmanager
def _keep_start_weights(model: Any) -> Iterator[None]:
    """What trains stays as it is while TRL makes a trainer of it, and its copy of the adapter is one. TRL rounds what
    trains to bf16 where the base is quantized; PiSSA would take its part out of the base once more for the copy; and of
    an adapter TRL copies LoRA's matrices alone."""
    before: list[tuple[str, Any, Tensor]] = [(n, p, p.data) for n, p in model.named_parameters() if p.requires_grad]
    config = model.peft_config["default"] if has_adapter(model) else None
    how = config.init_lora_weights if config is not None else None
    if config is not None:
        config.init_lora_weights = True
    yield
    if config is not None:
        config.init_lora_weights = how
    found = dict(model.named_parameters())
    for name, parameter, data in before:
        if parameter.dtype != data.dtype:
            parameter.data = data.to(parameter.device)
        copied = found.get(".".join(REFERENCE if part == "default" else part for part in name.split(".")))
        if copied is not None and copied is not parameter:
            copied.data = parameter.data.clone()
