"""Whether a change of the code has changed what runs compute: final hashes and every logged line of small runs.

    python benchmarks/same_results.py record FOLDER              # before the change
    python benchmarks/same_results.py compare FOLDER             # after it
    python benchmarks/same_results.py record FOLDER --code PATH  # with another checkout of ftlab
    python benchmarks/same_results.py paths --out FILE           # whether the fast path trains as the plain one does

Every stage, every method, the engine of TRL and curricula, a few steps each, with the embedded model and data. What is
compared: the sha256 of each file of weights below ``phases/``, every line of ``metrics.jsonl`` but its times, and the
samples. The exit code of ``compare`` is 1 where one run differs, which is named with the first line that does.

Equal hashes are to be expected on one machine only: other processors sum in another order.

``paths`` is about rounding, which makes hashes differ: attention by segments and a prompt once for two answers, as runs
go by themselves, beside eager attention with a mask, which needs a prompt for each answer. Both paths take 200 steps
by each of three seeds, and of each run two figures are compared: the loss of the last quarter of its steps and that of
the validation rows after the last. How far the paths are apart at one seed is to be a tenth at most of how far seeds
are apart; the exit code is 1 where it is more.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[1]
# Keys of a line of metrics.jsonl in which equal runs differ. Spelled here, because the code compared may be any.
TIMES = {
    "time", "seconds", "tokens_per_second", "mfu", "gpu_utilization", "gpu_memory_gb", "eval_runtime",
    "eval_samples_per_second", "eval_steps_per_second", "eval_model_preparation_time",
}  # fmt: skip
SHARED = (
    "train.max_steps=8", "train.save_steps=4", "train.logging_steps=2", "eval.steps=4", "train.micro_batch_size=2",
    "train.gradient_accumulation_steps=2", "lora.dropout=0.1", "eval.golden_rows=4", "eval.samples=2",
    "eval.max_new_tokens=6", "eval.generate_every=4", "data.max_samples=64", "tracker=none",
)  # fmt: skip
PPO = ("stage=ppo", "stage.rollout_batch_size=8", "stage.mini_batch_size=4", "stage.max_new_tokens=6")
RUNS: dict[str, tuple[str, ...]] = {
    "pt": ("stage=pt",),
    "sft": (),
    "sft-full": ("method=full",),
    "sft-freeze": ("method=freeze",),
    "sft-qlora": ("method=qlora",),
    "sft-neftune-loraplus": ("stage.neftune_alpha=5", "lora=loraplus"),
    "sft-trl": ("train.engine=trl", "eval.generate_every=null"),
    "rm": ("stage=rm",),
    "dpo": ("stage=dpo",),
    "dpo-qlora": ("stage=dpo", "method=qlora", "model.adapter=null"),
    "dpo-trl": ("stage=dpo", "train.engine=trl", "eval.generate_every=null"),
    "kto": ("stage=kto",),
    "orpo": ("stage=orpo",),
    "ppo": PPO,
    "grpo": (
        "stage=grpo", "stage.num_iterations=2", "stage.steps_per_generation=4", "stage.num_generations=2",
        "stage.max_new_tokens=6",
    ),
    "curriculum": (
        "phases=[{name: read, stage: pt}, {name: instruct, stage: sft}, {name: prefer, stage: dpo, start: merge}]",
    ),
    "judged": (
        "phases=[{name: judge, stage: rm}, {name: act, stage: ppo}]", "phases.act.stage.reward_model=judge",
        "phases.act.stage.rollout_batch_size=8", "phases.act.stage.mini_batch_size=4",
        "phases.act.stage.max_new_tokens=6",
    ),
}  # fmt: skip


# Of those that write their own answers only generation and padded rows are left, which are computed as ever.
STAGES = ("pt", "sft", "rm", "dpo", "kto", "orpo")
PATHS = {"fast": "auto", "plain": "eager"}  # model.attention
OF_PATHS = (
    "train.logging_steps=1", "train.micro_batch_size=2", "train.gradient_accumulation_steps=1", "tracker=none",
    "hardware.precision=fp32", "eval.golden_rows=0", "eval.samples=0",
    "lora.dropout=0",  # drawn for every place of a batch, of which rows by segments have fewer: no padding
)  # fmt: skip
FIGURES = {"train": "loss of the last quarter", "validation": "validation loss"}
WELL_WITHIN = 0.1  # of what seeds differ by


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("record", "compare"):
        action = actions.add_parser(name)
        action.add_argument("folder", type=Path, help="of the records, a JSON file for each run")
        action.add_argument("--code", type=Path, default=CODE, help="a checkout of ftlab")
        action.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS], metavar="RUN", help=", ".join(RUNS))
    action = actions.add_parser("paths")
    action.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES], metavar="STAGE")
    action.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    action.add_argument("--steps", type=int, default=200)
    action.add_argument("--out", type=Path, help="a JSON file for every logged loss")
    given = parser.parse_args()
    sys.exit(0 if (same_paths(given) if given.action == "paths" else same_code(given)) else 1)


def same_code(given: argparse.Namespace) -> bool:
    """Record what runs leave, or compare it with what was recorded. :return: whether all are equal."""
    given.folder.mkdir(parents=True, exist_ok=True)
    is_equal = True
    for name in given.runs:
        record, seconds = run(given.code.resolve(), (*SHARED, *RUNS[name]))
        file = given.folder / f"{name}.json"
        if given.action == "record":
            file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            told = f"{len(record['metrics'])} lines, {len(record['weights'])} files of weights"
        else:
            told = difference(json.loads(file.read_text(encoding="utf-8")), record)
            is_equal &= told is None
            told = told or f"equal: {len(record['metrics'])} lines, {len(record['weights'])} files of weights"
        print(f"{name:<22}{seconds:>6.1f} s  {told}", flush=True)
    return is_equal


def same_paths(given: argparse.Namespace) -> bool:
    """Train by both paths and all seeds, and print a line for each stage and figure. :return: whether all are near."""
    print("| stage | figure | mean | seeds apart | paths apart | share | a step apart at most |")
    print("|---|---|--:|--:|--:|--:|--:|")
    found: dict[str, Any] = {}
    for stage in given.stages:
        curves = paths_of(stage, given.seeds, given.steps)
        found[stage] = {"apart": apart(curves), "curves": curves}
        for figure, told in FIGURES.items():
            at = found[stage]["apart"][figure]
            print(
                f"| {stage} | {told} | {at['mean']:.5f} | {at['seeds']:.2g} | {at['paths']:.2g} "
                f"| {at['paths'] / at['seeds']:.2%} | {found[stage]['apart']['step']:.2g} |",
                flush=True,
            )
        if given.out is not None:  # after each stage: the whole takes its time
            conditions = {"steps": given.steps, "seeds": given.seeds, "paths": PATHS, "given": OF_PATHS}
            given.out.write_text(json.dumps({**conditions, "stages": found}, indent=1) + "\n", encoding="utf-8")
    figures = [each["apart"][figure] for each in found.values() for figure in FIGURES]
    return all(at["paths"] <= WELL_WITHIN * at["seeds"] for at in figures)


def paths_of(stage: str, seeds: list[int], steps: int) -> dict[str, dict[int, dict[str, Any]]]:
    """The curves of a stage by path and seed: the jobs of one sweep, in one process."""
    with tempfile.TemporaryDirectory(prefix="ftlab-same-") as folder:
        swept = (f"model.attention={','.join(PATHS.values())}", f"seed={','.join(map(str, seeds))}")
        length = (f"train.max_steps={steps}", f"eval.steps={steps}", "hydra.sweep.dir=runs")
        ftlab(CODE, Path(folder), ("-m", f"stage={stage}", *OF_PATHS, *length, *swept))
        curves: dict[str, dict[int, dict[str, Any]]] = {path: {} for path in PATHS}
        for job, (path, seed) in enumerate(itertools.product(PATHS, seeds)):
            curves[path][seed] = curve(metrics_of(Path(folder) / "runs" / str(job)))
    return curves


def curve(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The losses of a run, and its figures."""
    losses = [line["loss"] for line in metrics if "loss" in line]
    validation = [line["eval_loss"] for line in metrics if "eval_loss" in line]
    return {"losses": losses, "train": statistics.mean(losses[-len(losses) // 4 :]), "validation": validation[-1]}


def apart(curves: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Of each figure its mean, how far the seeds of the fast path are apart, and how far both paths are at one seed, at
    most; and that of the losses of single steps. :param curves: by path and seed."""
    fast, plain = (curves[path] for path in PATHS)
    found: dict[str, Any] = {}
    for figure in FIGURES:
        values = {seed: each[figure] for seed, each in fast.items()}
        found[figure] = {
            "mean": statistics.mean(values.values()),
            "seeds": max(values.values()) - min(values.values()),
            "paths": max(abs(values[seed] - plain[seed][figure]) for seed in values),
        }
    pairs = [pair for seed in fast for pair in zip(fast[seed]["losses"], plain[seed]["losses"], strict=True)]
    found["step"] = max(abs(one - other) for one, other in pairs)
    return found


def run(code: Path, overrides: tuple[str, ...]) -> tuple[dict[str, Any], float]:
    """What one run left, and how long it took. :raises SystemExit: it failed."""
    folder = Path(tempfile.mkdtemp(prefix="ftlab-same-"))
    begun = time.monotonic()
    ftlab(code, folder, (*overrides, "run.dir=run"))
    record = recorded(folder / "run")
    shutil.rmtree(folder)
    return record, time.monotonic() - begun


def ftlab(code: Path, folder: Path, words: tuple[str, ...]) -> None:
    """The command of a checkout, in a folder. :raises SystemExit: it failed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(code), str(code / "launchers")]), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "FTLAB_CACHE": str(folder / "cache"),
    }  # fmt: skip
    command = [sys.executable, "-m", "ftlab", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\nin {folder}")


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def recorded(run_dir: Path) -> dict[str, Any]:
    lines = metrics_of(run_dir)
    weights = sorted(path for path in (run_dir / "phases").rglob("*.safetensors") if "final" in path.parts)
    return {
        "weights": {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in weights},
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "samples": {path.name: path.read_text("utf-8") for path in sorted((run_dir / "samples").iterdir())},
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """The first thing in which two records differ; None where they are equal."""
    after = json.loads(json.dumps(after))  # NaN apart, what was read back is what was written
    for number, (old, new) in enumerate(zip(before["metrics"], after["metrics"]), 1):
        if json.dumps(old) != json.dumps(new):
            return f"DIFFERENT: line {number} of metrics.jsonl\n  before {old}\n  after  {new}"
    for kind in ("metrics", "weights", "samples"):
        if json.dumps(before[kind], sort_keys=True) != json.dumps(after[kind], sort_keys=True):
            return f"DIFFERENT: {kind}"
    return None


if __name__ == "__main__":
    main()
