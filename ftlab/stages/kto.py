"""kto: single answers, each labelled good or bad, each followed in its row by a mismatched one for the KL estimate."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftlab.data.packing.store import PackedRows, Rows, Sample
from ftlab.data.tokens.encoder import Counts
from ftlab.schema import KtoStage, Run
from ftlab.stages.losses import kto, kto_kl, sums_by_segment
from ftlab.stages.trainer.reference import ReferenceTrainer
from ftlab.stages.trainer.shards import FILLER


class WithMismatched(Rows):
    """Rows in which every sample is followed by its own prompt with the answer of another, drawn once by seed over the
    whole split: KTO's estimate of the KL needs answers that are not the prompt's, however small a batch is.

    :param limit: tokens of a sample at most.
    """

    def __init__(self, rows: PackedRows, seed: int, limit: int):
        super().__init__(2 * rows.views, rows.kept)
        self._rows, self._limit = rows, limit
        drawn = np.random.default_rng(seed).permutation(rows.views)
        self._partners = np.empty_like(drawn)
        self._partners[drawn] = np.roll(drawn, -1)
        self.attach("label", np.repeat(rows.labels, 2))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        samples = []
        for view in self._rows.view_indices(index):
            own, other = self._rows.view(view), self._rows.view(self._partners[view])
            asked, answered = int(own.learned.argmax()), int(other.learned.argmax())
            ids = np.concatenate([own.input_ids[:asked], other.input_ids[answered:]])[: self._limit]
            learned = np.concatenate([np.zeros(asked, dtype=bool), other.learned[answered:]])[: self._limit]
            samples += [own, Sample(ids, learned)]
        return self.pack(index, samples)

    def view_indices(self, index: int) -> Counts:
        own = self._rows.view_indices(index)
        return np.stack([2 * own, 2 * own + 1], axis=1).reshape(-1)

    def units(self, index: int) -> Counts:
        partners = self._partners[self._rows.view_indices(index)]
        return np.concatenate([self._rows.units(index), self._rows.units_of(partners)])

    def lengths(self) -> Counts:
        tokens = self._rows.view_lengths()
        return self._rows.sums(tokens + tokens[self._partners])

    def fingerprint(self) -> str:
        return f"{self._rows.fingerprint()} {hashlib.sha256(self._partners.tobytes()).hexdigest()} {self._limit}"


class KtoTrainer(ReferenceTrainer):
    """The samples of a batch alternate: an answer, and the same prompt with another row's answer."""

    balances_every = 2

    def __init__(
        self, run: Run, model: Any, tokenizer: Any, train_rows: PackedRows, validation_rows: PackedRows | None,
        *more: Any,
    ):  # fmt: skip
        def paired(rows: PackedRows) -> WithMismatched:
            return WithMismatched(rows, run.seed, run.data.max_length)

        validation = None if validation_rows is None else paired(validation_rows)
        super().__init__(run, model, tokenizer, paired(train_rows), validation, *more)

    def items(self, batch: dict[str, Any]) -> int:
        return int(batch["samples"]) // 2

    def _kl(self, policy_I: Tensor, reference_I: Tensor, is_filler: bool = False) -> Tensor:
        """Over the pairs of every process, which may have another number: it is cut off at 0 only as a whole."""
        values_I2 = torch.stack([policy_I, reference_I], dim=1)
        if self.world.size > 1:
            values_I2 = values_I2.new_full((1, 2), torch.nan) if is_filler else values_I2
            padded_I2 = self.accelerator.pad_across_processes(values_I2, pad_index=torch.nan)
            found_I2: Tensor = self.accelerator.gather(padded_I2)
            values_I2 = found_I2[~found_I2.isnan().any(1)]
        return kto_kl(values_I2[:, 0], values_I2[:, 1])

    @torch.no_grad()
    def of_whole_batch(self, model: Any, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The KL of a batch that is taken in parts is that of all of its pairs: one more forward of each."""
        policy, reference = [], []
        for part in map(self._prepare_inputs, parts):
            with self.compute_loss_context_manager():
                outputs = self.outputs(model, part)
            policy.append(sums_by_segment(outputs, part["segments"], int(part["samples"]))[1::2])
            reference.append(part["reference"][1::2])
        return {"kl": self._kl(torch.cat(policy), torch.cat(reference))}

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        stage = self.run.stage
        assert isinstance(stage, KtoStage)
        sums_S = sums_by_segment(outputs, batch["segments"], int(batch["samples"]))
        reference_S, good_I = batch["reference"], batch["label"][0::2].bool()
        kl = batch["kl"] if "kl" in batch else self._kl(sums_S[1::2].detach(), reference_S[1::2], FILLER in batch)
        found = kto(
            sums_S[0::2],
            reference_S[0::2],
            good_I,
            kl,
            stage.beta,
            stage.desirable_weight,
            stage.undesirable_weight,
        )
        nothing = torch.full_like(found.rewards_S, torch.nan)
        return found.losses_S, {
            "rewards/chosen": found.rewards_S.where(good_I, nothing),
            "rewards/rejected": found.rewards_S.where(~good_I, nothing),
            "rewards/accuracies": ((found.rewards_S > 0) == good_I).float(),
            "kl": kl.expand_as(found.rewards_S),
        }
