"""docs/compatibility.md: every family in every stage. Each cell is three steps of a random-weight model.

python -m tests.compatibility            # all of them, some minutes; writes docs/compatibility.md
python -m tests.compatibility falcon     # some, printed
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from ftlab.data.packing.store import PackedRow
from ftlab.data.prepare import prepare, split_parts
from ftlab.data.prompts import prompt_rows
from ftlab.data.sources import resolve
from ftlab.errors import NotReadyError
from ftlab.model.modules import decoder_of
from ftlab.model.score import score_of
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import Run
from ftlab.stages import trainer_class
from ftlab.stages.trainer.isolation import probe_isolation
from tests.conftest import ROOT
from tests.families import FAMILIES, family_model
from tests.runs import make_run
from tests.stages.trainers import plain_logprobs, trained

DOCUMENT = ROOT / "docs" / "compatibility.md"
STAGES = {
    "pt": ("data=phase1_foundation", "data.max_samples=2", "data.max_length=64", "data.overlap=0"),
    "sft": (), "rm": (), "dpo": (), "kto": (), "orpo": (),
    "ppo": ("stage.rollout_batch_size=4", "stage.mini_batch_size=2", "stage.ppo_epochs=1", "stage.max_new_tokens=4",
            "stage.rewards=['length:4']"),
    "grpo": ("stage.num_generations=2", "stage.max_new_tokens=4", "stage.rewards=['length:4']",
             "train.micro_batch_size=4"),
}  # fmt: skip
GENERATING = ("ppo", "grpo")
SMALL = (
    "model=local", "hardware.precision=fp32", "lora.dropout=0", "train.max_steps=3", "train.logging_steps=1",
    "data.max_length=256", "data.max_samples=24", "data.cache=null", "data.split.validation=none",
    "data.split.golden=none", "eval.samples=0", "eval.golden_rows=0", "tracker=none",
)  # fmt: skip
_PACKED_BY = {"position_ids": "position ids", "block_mask": "block mask", "one_per_row": "one sample to a row"}


def save_family(family: str, folder: Path, **more: Any) -> Path:
    """A model folder of the family, with the embedded model's tokenizer. :param more: of its config."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny")
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    family_model(family, len(tokenizer), **special, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def row_of(family: str, stages: tuple[str, ...] = tuple(STAGES)) -> list[str]:
    """The family's row of the table: how it is packed, then a cell for each stage."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_family(family, Path(folder) / "model")
        runs = {s: make_run(f"stage={s}", *SMALL, *STAGES[s], f"model.path={model}") for s in stages}
        cells = [three_steps(run, Path(folder) / stage) for stage, run in runs.items()]
    return [cells[0][0], *(cell for _, cell in cells)]


def three_steps(run: Run, folder: Path) -> tuple[str, str]:
    """How samples are kept apart, and ``yes``, or what was wrong, after three steps."""
    tokens = load_tokens(run)
    sources = resolve.resolve(run.data, run.stage.name)
    parts = split_parts(sources, run.data, run.seed)
    rows: Any = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer).train
    model, _ = build_model(run, tokens)
    files = PhaseFiles.in_folder(folder)
    if run.stage.name in GENERATING:
        try:
            trainer = trainer_class(run)(run, model, tokens.tokenizer, prompt_rows(parts["train"], rows), None, files)
        except NotReadyError:
            return "", "refused"
        return "", _verdict(trained(trainer), 0.0)
    row = next((row for row in rows if len(row.samples) > 1), PackedRow(rows[0].samples * 2))
    isolation = probe_isolation(model, row, tokens.tokenizer.pad_token_id).isolation
    trainer = trainer_class(run)(run, model, tokens.tokenizer, rows, None, files, (), isolation)
    logged = trained(trainer)
    return _PACKED_BY[isolation], _verdict(logged, _difference(trainer))


def _verdict(logged: list[dict[str, float]], difference: float) -> str:
    if len(logged) != 3 or not all(math.isfinite(entry["loss"]) for entry in logged):
        return "no finite loss"
    return "yes" if difference < 1e-5 else f"loss off by {difference:.1g}"


@torch.no_grad()
def _difference(trainer: Any) -> float:
    """Of the loss of some rows as the trainer computes it, from that of its samples one at a time, after training."""
    model = trainer.model.eval()
    rows = [trainer.train_dataset[index] for index in range(min(3, len(trainer.train_dataset)))]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    samples = [sample for row in rows for sample in row.samples]
    if trainer.run.stage.name == "rm":
        alone = torch.stack([_score(model, sample) for sample in samples])
    else:
        alone = torch.cat([plain_logprobs(model, sample).float() for sample in samples])
    losses = [trainer.terms(batch, outputs)[0].mean().item() for outputs in (trainer.outputs(model, batch), alone)]
    return abs(losses[0] - losses[1])


def _score(model: Any, sample: Any) -> Tensor:
    """At the last token that is learned."""
    ids = torch.tensor(sample.input_ids, dtype=torch.long)[None]
    states: list[Tensor] = []
    handle = decoder_of(model).register_forward_hook(lambda *got: states.append(got[2].last_hidden_state))
    model(input_ids=ids, use_cache=False)
    handle.remove()
    score: Tensor = score_of(model)(states[0][0, int(sample.learned.nonzero()[0][-1])].float())[0]
    return score


def read_table() -> dict[str, list[str]]:
    """The document's rows by family."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def _line(family: str, row: list[str]) -> str:
    return "| " + " | ".join([f"`{family}`", *row]) + " |"


def write_table(table: dict[str, list[str]]) -> None:
    """Put the rows in place of the document's own."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if not line.startswith("| `")]
    end = next(at for at, line in enumerate(others) if line.startswith("|---")) + 1
    found = [*others[:end], *(_line(family, row) for family, row in table.items()), *others[end:]]
    DOCUMENT.write_text("\n".join(found) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="families x packing x stages")
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], help="these alone, printed")
    chosen = parser.parse_args().families
    table = {}
    for family in chosen or FAMILIES:
        table[family] = row_of(family)
        print(_line(family, table[family]), flush=True)
    if not chosen:
        write_table(table)


if __name__ == "__main__":
    main()
