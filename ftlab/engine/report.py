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
from ftlab.data.prepare import Prepared
from ftlab.data.show import ledger_lines
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


def ledger(output: Output, run_dir: RunDir, phase: str, prepared: Prepared) -> None:
    """Write the ledger, and show it."""
    found = prepared.ledger
    write_atomic(run_dir.ledger(phase), json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n")
    for line in ledger_lines(found, prepared.cached):
        output.say(line)
    output.note(f"tokenized by {found.engine}")


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
