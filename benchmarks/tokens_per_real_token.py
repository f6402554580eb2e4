"""How many token positions a forward computes for each token of the data: the packed forward beside TRL's trainers.

    python benchmarks/tokens_per_real_token.py                       # the shipped sets
    python benchmarks/tokens_per_real_token.py --preferences pairs.json --labels labels.json --max-length 1024
    python benchmarks/tokens_per_real_token.py --stages dpo --batch 4 method=full

One epoch of every stage that both engines have, each in a process of its own. Ours trains on packed rows, TRL on
batches of that many pairs or answers (for sft on our packed rows, which TRL flattens). Positions are counted where they
enter the model: elements of ``input_ids`` at the embedding. Real tokens are those of the samples, kto's mismatched
answers among them, for both engines need them. Passes of the reference are counted apart: ours asks it once before
training, or finds its answers in the cache (switched off here), TRL asks it in every step of every epoch. CPU seconds
are those of the reference's passes and of training, on the embedded model; on a CPU TRL also scores every position and
not the answers' alone, so no conclusion about GPUs follows from them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = ("sft", "rm", "dpo", "kto")


@dataclass(frozen=True)
class Found:
    """:param real: tokens of one epoch. :param positions: computed for the policy, or for the reward model.
    :param reference: computed for the reference."""

    real: int
    positions: int
    reference: int
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--preferences", help="a file of pairs, for rm and dpo, beside the shipped set")
    parser.add_argument("--labels", help="a file of labelled answers, for kto")
    parser.add_argument("--max-length", type=int, default=1024, help="tokens of a sample of those files")
    parser.add_argument("--samples", type=int, default=96, help="rows of those files; 0 takes all")
    parser.add_argument("--batch", type=int, default=8, help="pairs or answers in a batch of TRL's; 8 is its default")
    options, overrides = parser.parse_known_args()
    print(
        "| stage | data | real tokens | ftlab | its reference | TRL | its reference | TRL / ftlab | CPU s | CPU s TRL |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for stage in options.stages:
            own = {"rm": options.preferences, "dpo": options.preferences, "kto": options.labels, "sft": None}[stage]
            for path in [None, own] if own else [None]:
                data = of_file(stage, path, options.max_length, options.samples) if path else []
                sides = [
                    pool.submit(measure, stage, engine, options.batch, (*data, *overrides)).result()
                    for engine in ("ftlab", "trl")
                ]
                print(line(stage, path or "shipped", *sides), flush=True)


def of_file(stage: str, path: str, max_length: int, samples: int) -> list[str]:
    kind = "kto" if stage == "kto" else "preference"
    limit = [f"data.max_samples={samples}"] if samples else []
    return [f"data.path='{path}'", f"data.format={kind}", f"data.max_length={max_length}", *limit]


def line(stage: str, data: str, ours: Found, theirs: Found) -> str:
    assert ours.real == theirs.real, "both read the same samples"
    ratios = [found / ours.real for found in (ours.positions, ours.reference, theirs.positions, theirs.reference)]
    whole = (theirs.positions + theirs.reference) / (ours.positions + ours.reference)
    cells = [stage, data, f"{ours.real:,}", *(f"{ratio:.3f}" if ratio else "" for ratio in ratios), f"{whole:.2f}"]
    return "| " + " | ".join([*cells, f"{ours.cpu_seconds:.1f}", f"{theirs.cpu_seconds:.1f}"]) + " |"


def measure(stage: str, engine: str, batch: int, overrides: Sequence[str]) -> Found:
    """One epoch. :param batch: pairs or answers in a batch of TRL's."""
    from ftlab.base.libraries import quiet_libraries
    from ftlab.base.progress import NoBar

    quiet_libraries()
    from transformers import PrinterCallback

    from ftlab.stages.kto import WithMismatched
    from ftlab.stages.trainer.stage_trainer import StageTrainer

    with tempfile.TemporaryDirectory() as folder:
        as_trl_would = [f"train.micro_batch_size={batch}", "data.packing=false"]
        how = as_trl_would if engine == "trl" and stage != "sft" else []
        trainer, rows = a_trainer(
            folder, f"stage={stage}", *how, "train.epochs=1", "train.logging_steps=1000000", "data.cache=null",
            "data.split.validation=none", "data.split.golden=none", "hardware.precision=fp32",
            "train.save_steps=1000000", f"train.engine={engine}", *overrides,
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        counts = count_positions(trainer)
        started = time.process_time()
        if isinstance(trainer, StageTrainer):
            trainer.begin(NoBar)
            counts["reference"], counts["policy"] = counts["policy"], 0
        trainer.train()
        seconds = time.process_time() - started
    read = WithMismatched(rows, trainer.run.seed, trainer.run.data.max_length) if stage == "kto" else rows
    return Found(sum(row.length for row in read), counts["policy"], counts["reference"], seconds)


def count_positions(trainer: Any) -> Counter[str]:
    """What enters the policy and the reference from now on; TRL's reference is an adapter or a model of its own."""
    counts: Counter[str] = Counter()

    def of_policy(_: Any, inputs: tuple[Any, ...]) -> None:
        is_reference = getattr(trainer.model, "active_adapter", None) == "ref"
        counts["reference" if is_reference else "policy"] += inputs[0].numel()

    def of_reference(_: Any, inputs: tuple[Any, ...]) -> None:
        counts["reference"] += inputs[0].numel()

    trainer.model.get_input_embeddings().register_forward_pre_hook(of_policy)
    reference = getattr(trainer, "ref_model", None)
    if reference is not None:
        reference.get_input_embeddings().register_forward_pre_hook(of_reference)
    return counts


def a_trainer(folder: str, *overrides: str) -> tuple[Any, Any]:
    """What the engine makes of a command line, without its run directory; and its rows."""
    from ftlab.config import command_line
    from ftlab.config.compose import read
    from ftlab.data.prepare import prepare, split_parts
    from ftlab.data.sources import resolve
    from ftlab.policy.build import build_model
    from ftlab.policy.tokens import load_tokens
    from ftlab.rundir.phase_files import PhaseFiles
    from ftlab.stages import trainer_class

    run = read(command_line.read(overrides).overrides)
    tokens = load_tokens(run)
    sources = resolve.resolve(run.data, run.stage.name)
    parts = split_parts(sources, run.data, run.seed)
    rows = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer).train
    model, _ = build_model(run, tokens)
    return trainer_class(run)(run, model, tokens.tokenizer, rows, None, PhaseFiles.in_folder(Path(folder))), rows


if __name__ == "__main__":
    main()
