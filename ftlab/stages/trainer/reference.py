"""Log-probabilities of a reference policy: once, before training, of the policy as it stands then."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ftlab.base.progress import Progress
from ftlab.data.packing.collate import BY_SEGMENT
from ftlab.data.packing.store import Rows
from ftlab.model.kernels.liger import has_liger_layers, put_liger_layers
from ftlab.model.load import load_reference
from ftlab.rundir import seals
from ftlab.stages.losses import sums_by_segment
from ftlab.stages.trainer.batch_sizes import MICRO_BATCH
from ftlab.stages.trainer.divergence import order_of_epoch
from ftlab.stages.trainer.stage_trainer import StageTrainer


class ReferenceTrainer(StageTrainer):
    """A stage whose loss compares the policy with where it came from. What the reference thinks of each sample is
    computed before the first step and joins the rows, so no second model stays in memory."""

    uses_dropout = False

    @property
    def needs_reference(self) -> bool:
        return True

    @property
    def reference_model(self) -> str | None:
        """Where another model than the starting policy is."""
        return None

    def begin(self, progress: Progress) -> None:
        super().begin(progress)
        if not self.needs_reference:
            return
        model: Any = self.model
        if self.reference_model is not None:
            with self.loading_whole():
                model = load_reference(self.run, self.reference_model)
            if self.isolation in BY_SEGMENT and model.config.model_type == self.model.config.model_type:
                model.set_attn_implementation(self.isolation)  # as was found right for the family
            if has_liger_layers(self.model) and model.config.model_type == self.model.config.model_type:
                put_liger_layers(model, self.run)
            self.place(model)
        is_shared = self.run.data.cache is not None and self.sharding.is_whole
        identity = _identity(model) if is_shared else None
        for name, rows in (("train", self.train_dataset), ("validation", self.eval_dataset)):
            if isinstance(rows, Rows):
                rows.attach("reference", self._cached_logprobs(model, identity, name, rows, progress))

    def placeholders(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"reference": torch.zeros(int(batch["samples"]))} if self.needs_reference else {}

    def _cached_logprobs(
        self, model: Any, identity: str | None, name: str, rows: Rows, progress: Progress
    ) -> NDArray[np.float32]:
        path = None if identity is None else self._cache_file(identity, rows)
        if path is None:
            return self._compute(model, rows, name, progress)
        if os.path.lexists(path):
            cached = seals.read_sealed(path)
            if cached is not None:
                return np.load(io.BytesIO(cached))
            seals.remove(path)
            name += " (its cache was damaged: computed anew)"
        found = self._compute(model, rows, name, progress)
        content = io.BytesIO()
        np.save(content, found)
        seals.write_sealed(path, content.getvalue())
        return found

    def _cache_file(self, identity: str, rows: Rows) -> Path:
        """Where a sweep's other runs find the same numbers: they depend on weights, rows, batching and arithmetic."""
        model: Any = self.model
        assert self.run.data.cache is not None
        batch = [self._batches(rows), model.config._attn_implementation, self.isolation, rows.shares_prompts]
        batch += ["liger"] * has_liger_layers(model)
        precision = [
            self.args.bf16,
            self.args.fp16,
            self.run.quant.compute_dtype,
            self.run.train.fp8,
            self.sizes_compiled,
            self.args.device.type,
        ]
        how = [*batch, *precision, torch.__version__, transformers.__version__]
        key = hashlib.sha256(f"{identity} {rows.fingerprint()} {how}".encode()).hexdigest()[:32]
        return Path(self.run.data.cache).expanduser() / "reference" / f"{key}.npy"

    def _compute(self, model: Any, rows: Rows, name: str, progress: Progress) -> NDArray[np.float32]:
        batches = self._batches(rows)
        loader: Any = DataLoader(cast(Any, rows), batch_sampler=batches, collate_fn=self.data_collator)
        was_training = model.training
        # What is compiled for training alone rounds otherwise, and nothing is drawn in these stages.
        is_compiled = bool(self.sizes_compiled) and model is self.model
        model.train(is_compiled)
        found = np.zeros(rows.views, dtype=np.float32)
        with torch.set_grad_enabled(is_compiled), progress(f"reference, {name}", len(rows), "rows") as bar:
            for members, batch in zip(batches, loader):
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    logprobs_N = self.outputs(model, batch).detach()
                sums_S = sums_by_segment(logprobs_N, batch["segments"], int(batch["samples"]))
                found[np.concatenate([rows.view_indices(i) for i in members])] = sums_S.cpu().numpy()
                bar.advance(len(members))
        model.train(was_training)
        self.sharding.release(model)
        return found

    def _batches(self, rows: Rows) -> list[list[int]]:
        """The batches that training and evaluation will make: in bf16 a matrix product of another shape has other
        rounding, and each pair has to begin with a margin of exactly 0."""
        size = self.args.per_device_train_batch_size
        assert self.args.data_seed is not None
        order = order_of_epoch(0, len(rows), self.args.data_seed) if rows is self.train_dataset else range(len(rows))
        batches = [list(order[i : i + size]) for i in range(0, len(rows), size)]
        part = self.sizes.at(MICRO_BATCH, 0)
        return [batch[i : i + part] for batch in batches for i in range(0, len(batch), part)]


def _identity(model: Any) -> str:
    """A hash of every weight. An adapter that changes nothing yet counts for nothing, so that runs of a sweep that
    differ in it share their reference."""
    state = model.state_dict()
    idle = {
        name.replace(".lora_B.", ".lora_A.")
        for name, tensor in state.items()
        if ".lora_B." in name and not tensor.any().item()
    }
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if ".lora_" in name and name.replace(".lora_B.", ".lora_A.") in idle:
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
