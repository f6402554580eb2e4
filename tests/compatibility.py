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

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from ftlab.data.packing.store import PackedRow, Sample
from ftlab.data.prepare import prepare, split_parts
from ftlab.data.prompts import prompt_rows
from ftlab.data.sources import resolve
from ftlab.errors import NotReadyError
from ftlab.measure.generate import prompt_batches
from ftlab.model.modules import decoder_of
from ftlab.model.padding import reads_padding
from ftlab.model.roles import POLICY
from ftlab.model.score import score_of
from ftlab.policy.build import build_model
from ftlab.policy.tokens import load_tokens
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.schema import Run
from ftlab.stages import trainer_class
from ftlab.stages.ppo.rollout import Answers
from ftlab.stages.trainer.isolation import probe_isolation
from tests.conftest import ROOT
from tests.families import FAMILIES, family_model
from tests.runs import make_run
from tests.stages.trainers import plain_logprobs, trained
from tests.tables import line_of, read_table, write_table

_REWARD = f"stage.rewards=[{Path(__file__).with_name('rewards.py')}:letters]"
DOCUMENT = ROOT / "docs" / "compatibility.md"
TITLE = "family"  # of the table's first column
STAGES = {
    "pt": ("data=phase1_foundation", "data.max_samples=2", "data.max_length=64", "data.overlap=0"),
    "sft": (), "rm": (), "dpo": (), "kto": (), "orpo": (),
    "ppo": ("stage.rollout_batch_size=4", "stage.mini_batch_size=2", "stage.ppo_epochs=1", "stage.max_new_tokens=4",
            "stage.temperature=1", _REWARD),
    "grpo": ("stage.num_generations=2", "stage.max_new_tokens=4", "stage.temperature=1", _REWARD,
             "train.micro_batch_size=4"),
}  # fmt: skip
GENERATING = ("ppo", "grpo")
_ANSWER = 6  # tokens that are compared
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
        return "", _verdict(trained(trainer), max(_sampled_difference(trainer), _answered_difference(trainer)))
    row = next((row for row in rows if len(row.samples) > 1), PackedRow(rows[0].samples * 2))
    isolation = probe_isolation(model, row, tokens.tokenizer.pad_token_id).isolation
    trainer = trainer_class(run)(run, model, tokens.tokenizer, rows, None, files, (), isolation)
    logged = trained(trainer)
    return _PACKED_BY[isolation], _verdict(logged, _difference(trainer))


def _verdict(logged: list[dict[str, float]], difference: float) -> str:
    if len(logged) != 3 or not all(math.isfinite(entry["loss"]) for entry in logged):
        return "no finite loss"
    if not any(entry["grad_norm"] > 0 for entry in logged):
        return "no gradient"
    return "yes" if difference < 1e-5 else f"loss off by {difference:.1g}"


@torch.no_grad()
def _difference(trainer: Any) -> float:
    """The largest of the loss of an item of some rows as the trainer computes it, from that of its samples one at a
    time, after training."""
    model = trainer.model.eval()
    rows = [trainer.train_dataset[index] for index in range(min(3, len(trainer.train_dataset)))]
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    samples = [sample for row in rows for sample in row.samples]
    if trainer.run.stage.name == "rm":
        alone = torch.stack([_score(model, sample) for sample in samples])
    else:
        alone = torch.cat([plain_logprobs(model, sample).float() for sample in samples])
    losses = [trainer.terms(batch, outputs)[0] for outputs in (trainer.outputs(model, batch), alone)]
    return float((losses[0] - losses[1]).abs().max())


@torch.no_grad()
def _sampled_difference(trainer: Any) -> float:
    """The largest of the log-probability of a token that is most likely to follow prompts of several lengths, as a
    rollout asks for them side by side, from that of each prompt alone; infinite where these tokens are others."""
    model, prompts = trainer.model.eval(), _prompts(trainer)
    lengths = [len(prompt) for prompt in prompts]
    batches = prompt_batches(range(len(prompts)), lengths, len(prompts), math.inf, reads_padding(model))
    together = [one for batch in batches for one in _continued(trainer, model, [prompts[i] for i in batch])]
    alone = [_continued(trainer, model, [prompt])[0] for prompt in prompts]
    if [tokens for tokens, _ in together] != [tokens for tokens, _ in alone]:
        return math.inf
    return max(float((many - one).abs().max()) for (_, many), (_, one) in zip(together, alone))


def _continued(trainer: Any, model: Any, prompts: list[list[int]]) -> list[tuple[list[int], Tensor]]:
    """Of each prompt the tokens that follow, and the log-probability of each."""
    pad_id, width = trainer.processing_class.pad_token_id, max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=_ANSWER, min_new_tokens=_ANSWER, do_sample=False,
        pad_token_id=pad_id, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    logprobs = torch.stack(found.logits, 1).double().log_softmax(-1).amax(-1)
    return list(zip(found.sequences[:, width:].tolist(), logprobs))


@torch.no_grad()
def _answered_difference(trainer: Any) -> float:
    """The largest of the log-probability of an answer's token as the trainer computes it, side by side, from that of
    each answer alone."""
    model, prompts = trainer.model.eval(), _prompts(trainer)
    draw = torch.Generator().manual_seed(0)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    answers = [torch.randint(vocabulary, (length,), generator=draw).tolist() for length in range(_ANSWER, 0, -1)][
        : len(prompts)
    ]
    alone = []
    for prompt, answer in zip(prompts, answers):
        learned = np.array([False] * len(prompt) + [True] * len(answer))
        sample = Sample(np.array([*prompt, *answer], dtype=np.int32), learned)
        alone.append(plain_logprobs(model, sample))
    pad_id = trainer.processing_class.pad_token_id
    if trainer.run.stage.name == "ppo":
        of_rows = Answers.from_lists(prompts, answers, pad_id, "cpu")
        together = trainer._logprobs(POLICY, of_rows, trainer._budget(0), "answers")
    else:
        ids, mask, width = _padded(prompts, answers, pad_id)
        together = trainer._get_per_token_logps_and_entropies(model, ids, mask, width)[0]
    return max(float((row[: len(one)] - one).abs().max()) for row, one in zip(together, alone))


def _padded(prompts: list[list[int]], answers: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor, int]:
    """As TRL lays them out: prompts padded on the left, answers on the right."""
    before, after = max(map(len, prompts)), max(map(len, answers))
    spans = [(before - len(prompt), len(prompt) + len(answer)) for prompt, answer in zip(prompts, answers)]
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers)]
    width = before + after
    ids = [[pad_id] * start + row + [pad_id] * (width - start - size) for (start, size), row in zip(spans, rows)]
    mask = [[0] * start + [1] * size + [0] * (width - start - size) for start, size in spans]
    return torch.tensor(ids), torch.tensor(mask), after


def _prompts(trainer: Any) -> list[list[int]]:
    """Four, each of another length."""
    rows = trainer._prompts if trainer.run.stage.name == "ppo" else trainer._train_rows
    by_length = {len(row.ids): [*row.ids] for row in rows}
    assert len(by_length) >= 4, "the prompts are to differ in length"
    return [by_length[length] for length in sorted(by_length)[:4]]


def _score(model: Any, sample: Any) -> Tensor:
    """At the last token that is learned."""
    ids = torch.tensor(sample.input_ids, dtype=torch.long)[None]
    states: list[Tensor] = []
    handle = decoder_of(model).register_forward_hook(lambda *got: states.append(got[2].last_hidden_state))
    model(input_ids=ids, use_cache=False)
    handle.remove()
    score: Tensor = score_of(model)(states[0][0, int(sample.learned.nonzero()[0][-1])].float())[0]
    return score


def read_families() -> dict[str, list[str]]:
    """The document's rows by family."""
    return {family.strip("`"): row for family, *row in read_table(DOCUMENT, TITLE)[1]}


def main() -> None:
    parser = argparse.ArgumentParser(description="families x packing x stages")
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], help="these alone, printed")
    chosen = parser.parse_args().families
    table = {}
    for family in chosen or FAMILIES:
        table[family] = [f"`{family}`", *row_of(family)]
        print(line_of(table[family]), flush=True)
    if not chosen:
        write_table(DOCUMENT, TITLE, [*table.values()])


if __name__ == "__main__":
    main()
