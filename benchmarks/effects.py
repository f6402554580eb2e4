"""What each stage teaches the embedded model, on held-out data: ``python -m ftlab stage=X seed=S`` as whole processes.

    python benchmarks/effects.py [--stages dpo kto] [--seeds 42 1 2] [--out DIR] [OVERRIDE ...]

Prints one markdown table: the stage's own measure from its run directory; for dpo, kto and orpo the share of golden
pairs whose preferred answer the policy finds more likely; and, wherever a policy is trained from one that answers
instructions, its exact match on the golden instructions before and after. Runs that are finished in DIR are kept. Run
it on a machine that does nothing else: it prints seconds too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = ("pt", "sft", "rm", "dpo", "kto", "orpo", "ppo", "grpo")
PAIRS = ("dpo", "kto", "orpo")
KEEPS_ANSWERS = (*PAIRS, "ppo", "grpo")  # start from an adapter that answers instructions
OWN = {
    "pt": ("validation perplexity",),
    "sft": ("golden exact match",),
    "rm": ("validation accuracy",),
    "dpo": ("validation preference_accuracy",),
    "kto": ("validation preference_accuracy", "validation rewards/accuracies"),  # the first that a run has
    "orpo": ("validation preference_accuracy",),
    "ppo": ("validation reward",),
    "grpo": ("validation reward",),
}


@dataclass
class Row:
    """One line of the table: a before and an after for each seed."""

    command: str
    measure: str
    sides: list[tuple[float, float]] = field(default_factory=list)
    matches: list[tuple[float, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        def shown(pairs: list[tuple[float, float]]) -> str:
            return ", ".join(f"{before:.3f} -> {after:.3f}" for before, after in pairs)

        wall = ", ".join(f"{seconds:.0f}" for seconds in self.seconds)
        return f"| `{self.command}` | {self.measure} | {shown(self.sides)} | {shown(self.matches)} | {wall} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("outputs/effects"))
    options, overrides = parser.parse_known_args()
    start = Policies()
    table = []
    for stage in options.stages:
        command = f"python -m ftlab stage={stage}"
        own, golden = Row(command, ""), Row(command, "golden pairs preferred")
        for seed in options.seeds:
            manifest = finished_run(options.out.resolve() / f"{stage}-{seed}", stage, seed, overrides)
            (result,) = manifest["phases"].values()
            own.measure = next(name for name in OWN[stage] if name in result["after"])
            own.sides.append((result["before"][own.measure], result["after"][own.measure]))
            own.seconds.append(manifest["seconds"])
            final = options.out.resolve() / f"{stage}-{seed}" / "final"
            if stage in PAIRS:
                golden.sides.append((start.preferred(None), start.preferred(final)))
            if stage in KEEPS_ANSWERS:
                own.matches.append((start.exact_match(None), start.exact_match(final)))
        table += [own, golden] if golden.sides else [own]
        print(own, flush=True)
    print("\n| command | measure | before -> after, each seed | sft exact match | seconds |")
    print("| --- | --- | --- | --- | --- |")
    print(*table, sep="\n")


def finished_run(folder: Path, stage: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """The manifest of a run in ``folder``, which is made or continued if it is not finished."""
    manifest = folder / "manifest.json"
    if not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8"))["status"] != "finished":
        command = [sys.executable, "-m", "ftlab", f"stage={stage}", f"seed={seed}", f"run.dir={folder}", *overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return found


class Policies:
    """Measures the starting adapter (None) and the final ones of runs, each once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Path | None], float] = {}

    def exact_match(self, final: Path | None) -> float:
        """Share of golden instructions whose greedy answer is the expected one."""
        return self._once("match", final, _exact_match)

    def preferred(self, final: Path | None) -> float:
        """Share of golden pairs whose chosen answer is the likelier one."""
        return self._once("pairs", final, _preferred)

    def _once(self, what: str, final: Path | None, measure: Any) -> float:
        if (what, final) not in self._known:
            self._known[what, final] = measure(final)
        return self._known[what, final]


def _loaded(stage: str, final: Path | None) -> tuple[Any, Any, Any, Any, Any]:
    """The stage's config with the adapter of ``final``; its model, tokens and sources; which rows each split has."""
    from ftlab.base.libraries import quiet_libraries
    from ftlab.config import command_line
    from ftlab.config.compose import compose, validate
    from ftlab.data.prepare import split_parts
    from ftlab.data.sources import resolve
    from ftlab.model import adapter, load
    from ftlab.policy.tokens import load_tokens

    quiet_libraries()
    given = [f"stage={stage}", "model=tiny_instruct", *([] if final is None else [f"model.adapter={final}"])]
    run = validate(compose(command_line.read(given).overrides))
    model = adapter.apply_method(load.load_model(run), run).eval()
    sources = resolve.resolve(run.data, stage)
    return run, model, load_tokens(run), sources, split_parts(sources, run.data, run.seed)


def _exact_match(final: Path | None) -> float:
    from ftlab.data.prepare import examples
    from ftlab.data.tokens.templates import prompt_and_answer
    from ftlab.engine.measuring import tokens_at_once
    from ftlab.measure.generate import generate
    from ftlab.measure.metrics import exact_match

    run, model, tokens, _, parts = _loaded("sft", final)
    questions = [prompt_and_answer(example.record) for example in examples(parts["golden"])]
    answers = generate(
        model, tokens.tokenizer, [tokens.template.prompt(messages, None) for messages, _ in questions],
        max_new_tokens=run.eval.max_new_tokens, batch_size=run.eval.batch_size,
        max_tokens=tokens_at_once(run, run.train.micro_batch_size), stop=tokens.stop,
    )  # fmt: skip
    return exact_match(answers, [answer for _, answer in questions])


def _preferred(final: Path | None) -> float:
    import torch

    from ftlab.data.packing.collate import PackedCollator
    from ftlab.data.prepare import prepare
    from ftlab.stages.losses import sums_by_segment
    from ftlab.stages.trainer.forward import packed_logprobs

    run, model, tokens, sources, parts = _loaded("dpo", final)
    rows = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer).rows["golden"]
    collate = PackedCollator(tokens.tokenizer.pad_token_id)
    better: list[bool] = []
    with torch.no_grad():
        for index in range(len(rows)):
            batch = collate([rows[index]])
            found = sums_by_segment(packed_logprobs(model, model, batch), batch["segments"], int(batch["samples"]))
            better += (found[0::2] > found[1::2]).tolist()
    return sum(better) / len(better)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
