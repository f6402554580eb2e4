"""What a run tells about itself: provenance in the manifest, the ledger, and the table at the end."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from importlib import metadata
from typing import Any

from rich.markup import escape
from rich.table import Table

from ftlab import __version__
from ftlab.data.ledger import Ledger
from ftlab.engine.output import Output
from ftlab.plan import Plan
from ftlab.rundir import RunDir, write_atomic

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "tokenizers", "hydra-core",
)  # fmt: skip
_SHOWN = 3  # samples in the summary


def provenance(plan: Plan) -> dict[str, Any]:
    """Where a run came from: versions, machine, code and the command that runs it again."""
    return {
        "ftlab": __version__,
        "rerun": shlex.join(["ftlab", *plan.overrides]),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "device": _device()},
        "git": _git_commit(),
    }


def ledger(output: Output, run_dir: RunDir, phase: str, found: Ledger, fingerprints: dict[str, str]) -> None:
    """Write the ledger, with the fingerprint of each split's file, and show it."""
    content = found.as_dict()
    content["sha256"] = fingerprints
    write_atomic(run_dir.ledger(phase), json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    table = Table(title=f"data: {found.source}", title_justify="left", box=None, pad_edge=False)
    columns = ("split", "rows", "kept", "dropped", "cut", "tokens", "trained", "packed", "fill")
    for column in columns:
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in found.splits.items():
        if split.packed_rows:
            counts = (split.rows_in, split.rows_kept, split.rows_dropped, split.rows_truncated, split.tokens_in,
                      split.tokens_trained, split.packed_rows)  # fmt: skip
            table.add_row(name, *(f"{count:,}" for count in counts), f"{split.fill:.1%}")
        else:
            table.add_row(name, f"{split.rows_in:,}", *[""] * 7)
    output.say(table)
    for name, split in found.splits.items():
        for reason, count in split.dropped.items():
            where = f", first {split.named[reason][0]}" if split.named[reason] else ""
            output.say(f"[yellow]{name}: {count:,} rows dropped: {escape(reason)}{where}[/yellow]")


def summary(output: Output, run_dir: RunDir) -> None:
    """Before and after, some answers, where everything is, and what to type next."""
    manifest = run_dir.manifest()
    for name, result in manifest["phases"].items():
        _samples(output, run_dir, name)
        table = Table(title=f"{name}: {result['steps']} steps, {result['tokens']:,} tokens", title_justify="left")
        for column in ("measure", "before", "after"):
            table.add_column(column, justify="left" if column == "measure" else "right")
        before, after = result["before"], result["after"]
        for measure in after:
            if measure == "golden exact match":
                prompts = f" ({after['golden prompts']:.0f} prompts)"
                table.add_row(measure + prompts, f"{before[measure]:.3f}", f"{after[measure]:.3f}")
            elif measure != "golden prompts":
                table.add_row(measure, f"{before[measure]:.4f}", f"{after[measure]:.4f}")
        output.say(table)
    path = run_dir.path
    seconds = f" after {manifest['seconds']:.0f} s" if "seconds" in manifest else ""
    output.say(f"Finished{seconds}. Everything is in {path}:")
    where = Table(box=None, show_header=False, pad_edge=False)
    for row in (
        ("  final/", "weights, tokenizer, chat template, stop tokens"),
        ("  samples/", "answers before and after"),
        ("  metrics.jsonl", "every logged value"),
        ("  data/", "the ledger: what became of every row and token"),
        ("  run.yaml, manifest.json", "the whole config; versions, hashes, the command that runs it again"),
    ):
        where.add_row(*row)
    output.say(where)
    output.say("Next:")
    for command in (
        "ftlab data.path=YOUR.json data.format=alpaca     # the same on your own file",
        "ftlab explain train.learning_rate                # where a value comes from",
        f"tensorboard --logdir {path}",
    ):
        output.say(f"  {command}")


def _samples(output: Output, run_dir: RunDir, phase: str) -> None:
    before, after = (
        json.loads((run_dir.samples / f"{phase}-{when}.json").read_text(encoding="utf-8"))["samples"]
        for when in ("before", "after")
    )
    if not after:
        return
    table = Table(title="answers", title_justify="left", show_lines=True)
    for column in ("prompt", "before", "after", "expected"):
        table.add_column(column, overflow="fold", max_width=44)
    for old, new in list(zip(before, after))[:_SHOWN]:
        shown = (new["prompt"], old["answer"], new["answer"], new["expected"])
        table.add_row(*(escape(_short(text)) for text in shown))
    output.say(table)


def _short(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def _git_commit() -> str | None:
    """The commit of the folder that the run was started in; None outside a repository or without git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
