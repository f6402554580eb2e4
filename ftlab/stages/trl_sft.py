"""``train.engine=trl``: TRL's SFTTrainer on the same rows, thinly mapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ftlab.data.store import PackedRows
from ftlab.schema import Run
from ftlab.stages.common import WholeCheckpoints, training_arguments


class TrlSftTrainer(WholeCheckpoints, SFTTrainer):
    """TRL with the constructor of a :class:`ftlab.stages.common.StageTrainer`."""

    def __init__(
        self,
        run: Run,
        model: Any,
        tokenizer: Any,
        train_rows: PackedRows,
        validation_rows: PackedRows | None,
        output_dir: str,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        args = training_arguments(
            run,
            output_dir,
            SFTConfig,
            dataset_kwargs={"skip_prepare_dataset": True},
            padding_free=True,
            packing=False,
            max_length=None,
        )
        if validation_rows is None:
            args.eval_strategy = "no"
        super().__init__(
            model=model,
            args=args,
            train_dataset=_dataset(train_rows),
            eval_dataset=None if validation_rows is None else _dataset(validation_rows),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )


def _dataset(rows: PackedRows) -> Dataset:
    packed = [rows[i] for i in range(len(rows))]
    return Dataset.from_dict(
        {
            "input_ids": [np.concatenate([s.input_ids for s in row.samples]) for row in packed],
            "labels": [np.concatenate([s.labels for s in row.samples]) for row in packed],
            "seq_lengths": [[len(s.input_ids) for s in row.samples] for row in packed],
        }
    )
