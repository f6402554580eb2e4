"""kto: single answers, each labelled good or bad, each followed in its row by a mismatched one for the KL estimate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ftlab.data.packing.store import SHARED, PackedRow, PackedRows, Rows
from ftlab.data.tokens.encoder import Counts
from ftlab.schema import KtoStage, Run
from ftlab.stages.losses import kto, kto_kl, sums_by_segment
from ftlab.stages.trainer.reference import ReferenceTrainer
from ftlab.stages.trainer.shards import FILLER

_AT_ONCE = 1 << 10  # views whose tokens are read together
PAIRS_OF_RANKS = "pairs_of_ranks"  # in a batch: how many pairs each process has of the micro-batch


class WithMismatched(Rows):
    """Rows in which every sample is followed by its own prompt with the answer of another, drawn once by seed over the
    whole split: KTO's estimate of the KL needs answers that are not the prompt's, however small a batch is.

    :param limit: tokens of a sample at most.
    """

    def __init__(self, rows: PackedRows, seed: int, limit: int):
        super().__init__(2 * rows.views, rows.kept)
        self._rows, self._limit = rows, limit
        self.shares_prompts = rows.shares_prompts
        drawn = np.random.default_rng(seed).permutation(rows.views)
        self._partners = np.empty_like(drawn)
        self._partners[drawn] = np.roll(drawn, -1)
        self.attach("label", np.repeat(rows.labels, 2))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        index = range(len(self))[index]
        views = self._rows.view_indices(index)
        starts, lengths, skips = self._rows.stretches(views)
        other_starts, other_lengths, other_skips = self._rows.stretches(self._partners[views])
        asked, answered = self._prompts(views), self._prompts(self._partners[views])
        prompts = np.minimum(asked, self._limit)
        answers = np.minimum(other_lengths - answered, self._limit - prompts)
        # Of each answer three stretches: itself, its prompt again, in which nothing is learned, and another's answer.
        stored = (starts, starts, other_starts + answered), (lengths, prompts, answers)
        unlearned = skips, prompts, np.maximum(other_skips - answered, 0)
        ids, learned = self._rows.tokens(*(np.stack(each, axis=1).reshape(-1) for each in (*stored, unlearned)))
        pairs = np.stack([lengths, prompts + answers], axis=1).reshape(-1)
        return PackedRow.of_tokens(ids, learned, pairs, self.columns(index))

    def _prompts(self, views: Counts) -> Counts:
        """How many tokens of each view precede the first that is learned; 0 where none is."""
        starts, lengths, skips = self._rows.stretches(views)
        _, learned = self._rows.tokens(starts, lengths, skips)
        ends = lengths.cumsum()
        places = np.append(np.flatnonzero(learned), len(learned))
        firsts = places[np.searchsorted(places, ends - lengths)]
        return np.where(firsts < ends, firsts - ends + lengths, 0)

    def view_indices(self, index: int) -> Counts:
        own = self._rows.view_indices(index)
        return np.stack([2 * own, 2 * own + 1], axis=1).reshape(-1)

    def units(self, index: int) -> Counts:
        partners = self._partners[self._rows.view_indices(index)]
        return np.concatenate([self._rows.units(index), self._rows.units_of(partners)])

    def lengths(self) -> Counts:
        tokens, views = self._rows.view_lengths(), np.arange(len(self._partners))
        asked = np.concatenate([self._prompts(views[i : i + _AT_ONCE]) for i in range(0, len(views), _AT_ONCE)])
        mismatched = np.minimum(asked + (tokens - asked)[self._partners], self._limit)
        shared = self._columns[SHARED][1::2] if SHARED in self._columns else 0
        return self._rows.sums(tokens + mismatched - shared)

    def counts(self) -> Counts:
        return 2 * self._rows.counts()

    def shared(self) -> Counts:
        # The limit cuts no prompt, which has an answer behind it.
        return np.stack([np.zeros_like(self._rows.prompts), self._rows.prompts], axis=1).reshape(-1)

    def fingerprint(self) -> str:
        return f"{self._rows.fingerprint()} {hashlib.sha256(self._partners.tobytes()).hexdigest()} {self._limit}"


class KtoTrainer(ReferenceTrainer):
    """The samples of a batch alternate: an answer, and the same prompt with another row's answer."""

    balances_every = 2
    counts_pairs = True

    def __init__(
        self, run: Run, model: Any, tokenizer: Any, train_rows: PackedRows, validation_rows: PackedRows | None,
        *more: Any,
    ):  # fmt: skip
        def paired(rows: PackedRows) -> WithMismatched:
            return WithMismatched(rows, run.seed, run.data.max_length)

        validation = None if validation_rows is None else paired(validation_rows)
        super().__init__(run, model, tokenizer, paired(train_rows), validation, *more)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        items = super()._get_num_items_in_batch(batch_samples, device)
        if self.world.size > 1:
            for index, batch in enumerate(batch_samples):
                batch[PAIRS_OF_RANKS] = self._pairs_of_ranks(index)
        return items

    def _pairs_of_ranks(self, index: int) -> list[int]:
        """How many pairs each process has of a micro-batch of the next step."""
        parts, size = self.rows_of_step(self._next_step), self.world.size
        pairs = [int(self.items_of_rows[part].sum()) for part in parts[index * size : (index + 1) * size]]
        return pairs + [0] * (size - len(pairs))  # fillers

    def _kl(
        self, policy_I: Tensor, reference_I: Tensor, is_filler: bool = False, pairs: Sequence[int] | None = None
    ) -> Tensor:
        """Over the pairs of every process, which may have another number: it is cut off at 0 only as a whole.

        :param pairs: how many those are, by rank; where that is not known the processes ask each other.
        """
        values_I2 = torch.stack([policy_I, reference_I], dim=1)
        if self.world.size > 1 and pairs is not None:
            values_I2 = torch.nn.functional.pad(values_I2, (0, 0, 0, max(pairs) - len(values_I2)))
            places = [rank * max(pairs) + i for rank, count in enumerate(pairs) for i in range(count)]
            places_I = torch.tensor(places).to(values_I2.device, non_blocking=values_I2.device.type == "cuda")
            values_I2 = self.accelerator.gather(values_I2)[places_I]
        elif self.world.size > 1:
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
        pairs = self._pairs_of_ranks(len(self._parts))  # of the batch that is about to begin
        return {"kl": self._kl(torch.cat(policy), torch.cat(reference), pairs=pairs)}

    def terms(self, batch: dict[str, Any], outputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        stage = self.run.stage
        assert isinstance(stage, KtoStage)
        sums_S = sums_by_segment(outputs, batch["segments"], int(batch["samples"]))
        reference_S, good_I = batch["reference"], batch["label"][0::2].bool()
        if "kl" in batch:
            kl = batch["kl"]
        else:
            kl = self._kl(sums_S[1::2].detach(), reference_S[1::2], FILLER in batch, batch.get(PAIRS_OF_RANKS))
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
