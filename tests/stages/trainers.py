"""What the engine makes of a command line, without its run directory; and a model's own word on a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlab.base.progress import NoBar
from ftlab.data.packing.store import PackedRows, Sample
from ftlab.data.prepare import prepare, split_parts
from ftlab.data.sources import resolve
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.stages import trainer_class
from tests.runs import make_run


def a_trainer(folder: Path, *overrides: str, validates: bool = False) -> tuple[Any, PackedRows]:
    """The trainer and its rows. :param validates: whether it has validation rows too."""
    run = make_run(*overrides)
    tokens = load_tokens(run)
    sources = resolve.resolve(run.data, run.stage.name)
    parts = split_parts(sources, run.data, run.seed)
    prepared = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer)
    rows, held = prepared.train, prepared.validation if validates else None
    model, _ = build_model(run, tokens)
    return trainer_class(run)(run, model, tokens.tokenizer, rows, held, PhaseFiles.in_folder(folder)), rows


def samples_of(rows: PackedRows) -> list[Sample]:
    return [sample for row in rows for sample in row.samples]


@torch.no_grad()
def plain_logprobs(model: Any, sample: Sample) -> Tensor:
    """log p of each learned token: one sample, all its logits, in float64 from there on."""
    ids = torch.tensor(sample.input_ids, dtype=torch.long)
    logits = model(input_ids=ids[None], use_cache=False).logits[0].double()
    places = torch.tensor(sample.learned).nonzero()[:, 0]
    return logits.log_softmax(-1)[places - 1, ids[places]]


def begin(trainer: Any) -> None:
    """Have it find out what its first step needs."""
    trainer.begin(NoBar)


def trained(trainer: Any) -> list[dict[str, float]]:
    """What it logs of each step."""
    begin(trainer)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
