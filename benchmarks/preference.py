"""Pairs per second of the preference stages beside TRL's trainers: dpo, kto, rm, and orpo beside its experimental one.

    python benchmarks/preference.py                                      # 4 layers, hidden 512, vocabulary 32k
    python benchmarks/preference.py --cases dpo kto --pairs 96
    python benchmarks/preference.py --preferences pairs.json --labels labels.json   # your own, in a registered format

One epoch of the same pairs (for kto: of labelled answers) by either side, LoRA in fp32, and the time of all of it:
what the reference says of every pair is asked once before training by ftlab, and in every step by TRL, which is once
as well. TRL has micro-batches of 4 pairs, padded to the longest, since its dpo cannot do without padding (its
``padding_free`` is switched off in 1.16); ftlab packs rows of as many tokens as 4 pairs have on average. It measures
what it measures by itself. ``dpo long prompts`` are pairs whose prompt is about ten times as long as an answer; ``dpo
shipped`` are the pairs of ``dataset/``, which are short and matched in length, so that there is little padding to
save. TRL's orpo scores the prompt too and makes all logits at once; it gets the same ids. Lengths of the others are
spread as people's are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import workload
from harness import Case, Figures, Ratio

FASTER, FASTER_WITH_LONG_PROMPTS = 1.8, 2.5
BATCH = 4  # pairs
CPU = ("hardware=cpu", "hardware.precision=fp32")
TRL_CPU = (*CPU, "model.attention=sdpa")
# Median lines of a prompt and of an answer, about 15 tokens each, and how far prompts are spread.
LINES = dict.fromkeys(("dpo", "kto", "rm", "orpo"), (3, 5, 0.9)) | {"dpo long prompts": (40, 4, 0.2)}


def main() -> None:
    parser = harness.parser_of(__doc__)
    parser.add_argument("--pairs", type=int, default=48, help="of an epoch")
    parser.add_argument("--preferences", help="a file of pairs, for dpo, rm and orpo")
    parser.add_argument("--labels", help="a file of labelled answers, for kto")
    harness.main("preference", parser.parse_args(), cases, measure)


def cases(options: Any) -> list[Case]:
    shape, pairs = ("small", 8) if options.small else ("step", options.pairs)
    found = []
    for name in (*LINES, "dpo shipped"):
        stage = name.split()[0]
        own = options.labels if stage == "kto" else options.preferences
        if own and name != stage:
            continue
        work = {"name": name, "shape": shape, "pairs": pairs, "path": own}
        limit = FASTER_WITH_LONG_PROMPTS if name == "dpo long prompts" else FASTER
        found.append(
            Case(
                name,
                {"ftlab": {"engine": "ftlab", "more": CPU, **work}, "trl": {"engine": "trl", "more": TRL_CPU, **work}},
                (Ratio("pairs/s", at_least=limit), Ratio("CPU s", better="lower"), Ratio("peak MiB", better="lower")),
                equal=("pairs",),
            )
        )
    return found


def measure(engine: str, name: str, shape: str, pairs: int, more: Sequence[str], path: str | None = None) -> Figures:
    """One epoch of one side. :param more: overrides that say where, and how TRL's side attends."""
    stage = name.split()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = rows_of(folder, name, pairs, path)
        overrides = [
            *workload.PLAIN, f"stage={stage}", f"model.path={workload.model_folder(folder, shape)}",
            "model.init=random", "model.adapter=null", *data, f"data.max_samples={pairs}", "method=lora",
            "train.epochs=1", "train.gradient_accumulation_steps=1", *more,
        ]  # fmt: skip
        length = row_length(overrides)
        how = ["data.packing=true", "train.micro_batch_size=1"]
        if engine == "trl":
            how = ["data.packing=false", f"train.micro_batch_size={BATCH}"]
            how += ["train.engine=trl"] if stage != "orpo" else []
        run = workload.read_run(*overrides, f"data.max_length={length}", *how)
        trainer, rows = workload.make_trainer(run, folder)
        if engine == "trl" and stage == "orpo":
            trainer = trl_orpo(run, trainer, rows, folder)
        tokens = sum(len(sample.input_ids) for i in range(len(rows)) for sample in rows[i].samples)
        counted = sum(len(rows[i].samples) for i in range(len(rows))) // (1 if stage == "kto" else 2)

        def epoch() -> None:
            workload.begin(trainer)
            trainer.train()

        figures = workload.timed(epoch)
        return {
            "pairs/s": counted / figures["wall s"], **figures, "pairs": counted, "tokens/pair": tokens / counted,
            "pairs/step": counted / trainer.state.global_step,
        }  # fmt: skip


def rows_of(folder: Path, name: str, pairs: int, path: str | None) -> list[str]:
    """The overrides that give the case its data."""
    stage = name.split()[0]
    if name == "dpo shipped":
        return []
    if path is not None:
        return [f"data.path='{path}'", f"data.format={'kto' if stage == 'kto' else 'preference'}"]
    asked, answered, spread = LINES[name]
    if stage == "kto":
        return [f"data.path={workload.write_labels(folder / 'rows.jsonl', pairs, asked, answered)}", "data.format=kto"]
    made = workload.write_pairs(folder / "rows.jsonl", pairs, asked, answered, spread)
    return [f"data.path={made}", "data.format=preference"]


def row_length(overrides: Sequence[str]) -> int:
    """``data.max_length`` of rows that hold :data:`BATCH` pairs of average length, and the longest sample in any case:
    a row of pairs has room for two samples of it."""
    from ftlab.policy.tokens import load_tokens

    run = workload.read_run(*overrides, "data.packing=false", "data.max_length=8192")
    rows = workload.rows_of(run, load_tokens(run))
    lengths = [len(sample.input_ids) for i in range(len(rows)) for sample in rows[i].samples]
    samples = 2 * BATCH  # each answer of kto comes with another's
    return max(*lengths, round(samples / 2 * sum(lengths) / len(lengths)))


def trl_orpo(run: Any, ours: Any, rows: Any, folder: Path) -> Any:
    """TRL's trainer on the ids of our rows. It would tokenize text itself: what it is given is a placeholder."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    from ftlab.stages.trainer.arguments import training_arguments
    from ftlab.stages.trl_batches import pad_samples

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        samples = [sample for item in items for sample in rows[item["row"]].samples]
        batch = {}
        for side, of_side in (("chosen", samples[0::2]), ("rejected", samples[1::2])):
            found = pad_samples(of_side, ours.processing_class.pad_token_id)
            labels = found["input_ids"].where(found["completion_mask"] == 1, -100)
            batch |= {f"{side}_input_ids": found["input_ids"], f"{side}_attention_mask": found["attention_mask"]}
            batch[f"{side}_labels"] = labels
        return batch

    arguments = training_arguments(run, str(folder / "trl"), ORPOConfig, beta=run.stage.beta, max_length=None)
    arguments.eval_strategy = "no"
    placeholders = Dataset.from_list(
        [{"prompt": "a", "chosen": "b", "rejected": "c", "row": i} for i in range(len(rows))]
    )
    trainer = ORPOTrainer(
        model=ours.model, args=arguments, data_collator=collate, train_dataset=placeholders,
        processing_class=ours.processing_class,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    main()
