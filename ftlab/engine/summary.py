"""What a run tells about itself: the ledger, and the table at the end."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ftlab.base.numbers import readable
from ftlab.data.ledger.table import ledger_lines
from ftlab.data.prepare import Prepared
from ftlab.data.sources.resolve import STAGE_FORMATS
from ftlab.engine.output import Output
from ftlab.engine.session import Session
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic
from ftlab.rundir.names import FINAL
from ftlab.rundir.plan import Phase, Plan
from ftlab.rundir.records import read_samples
from ftlab.rundir.summary import GOLDEN, GOLDEN_COUNTS, prompts_asked
from ftlab.rundir.sweep import sweep_of_run

_SHOWN = 3  # samples in the summary
_LINES, _LETTERS = 8, 240  # of one prompt or answer
_NONE = "-"  # in a table: only the other side was measured


def ledger(session: Session, phase: str, prepared: Prepared) -> None:
    """Write the ledger, and show it. The manifest gets one hash over all the data's files, wherever they lie."""
    found, path = prepared.ledger, session.run_dir.ledger(phase)
    write_atomic(path, json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n")
    fingerprint = hashlib.sha256("\n".join(sorted(found.sha256.values())).encode()).hexdigest()
    name = str(path.relative_to(session.run_dir.path))
    session.manifest.record_item("data", phase, {"files": len(found.sha256), "sha256": fingerprint, "ledger": name})
    for line in ledger_lines(found, prepared.cached, prepared.damaged):
        session.output.say(line)
    session.output.note(f"tokenized by {found.engine}")


def look_at(run_dir: RunDir, plan: Plan, phase: Phase) -> str:
    """The command that shows the rows of a step, but for its number."""
    named = f" phase={phase.name}" if len(plan.phases) > 1 else ""
    return f"ftlab inspect {shlex.quote(str(run_dir.path))}{named} step="


def results(session: Session) -> None:
    """Before and after, some answers, where everything is, and what to type next."""
    output, run_dir, manifest = session.output, session.run_dir, session.manifest.values
    for name, result in manifest["phases"].items():
        _samples(output, run_dir, name)
        table = Table(title=f"{name}: {result['steps']} steps, {result['tokens']:,} tokens", title_justify="left")
        for column in ("measure", "before", "after"):
            table.add_column(column, justify="left" if column == "measure" else "right")
        before, after = result["before"], result["after"]
        for measure in dict.fromkeys([*after, *before]):  # keys of eval may change between two starts
            if measure == GOLDEN:
                table.add_row(measure + prompts_asked(before, after), *_both(before, after, measure))
            elif measure not in GOLDEN_COUNTS:
                table.add_row(measure, *_both(before, after, measure))
        output.say(table)
    seconds = f" after {manifest['seconds']:.0f} s" if "seconds" in manifest else ""
    if sweep_of_run(run_dir.path) is not None:  # its table says what comes next
        output.say(f"{manifest['status'].capitalize()}{seconds}: {escape(str(run_dir.path))}")
        return
    output.say(f"{manifest['status'].capitalize()}{seconds}. Everything is in {escape(str(run_dir.path))}:")
    where = Table(box=None, show_header=False, pad_edge=False)
    for row in (
        ("  final/", "weights, tokenizer, chat template, stop tokens"),
        ("  samples/", "measures and answers, before and after"),
        ("  metrics.jsonl", "every logged value"),
        ("  data/", "the ledger: what became of every row and token"),
        ("  run.yaml, manifest.json", "the whole config; versions, hashes, the command that runs it again"),
    ):
        where.add_row(*row)
    output.say(where)
    for line in next_lines(run_dir.path, session.plan):
        output.say(line)


def next_lines(path: Path, plan: Plan) -> Iterator[str]:
    """``Next:`` and what is worth typing, as rich's markup."""
    yield "Next:"
    for command, meaning in next_commands(path, plan):
        yield f"  {escape(command)}"
        yield f"      [dim]{meaning}[/dim]"


def next_commands(path: Path, plan: Plan) -> Iterator[tuple[str, str]]:
    """What is worth typing after a run, and what it does: the next stage, one's own data, a look at what was trained.

    :param path: the run directory.
    """
    config, place = plan.phases[-1].config, shlex.quote(str(path))
    stage, is_lora = config.stage.name, config.method.name == "lora"
    # The same model: what was said of it, and the weights that it has now.
    kept = [o for o in plan.overrides if o.startswith(("model=", "quant=", "method=", "lora=", "lora.r="))]
    if is_lora:
        kept += [o for o in plan.overrides if o.startswith("model.path=")]
    weights = shlex.join([*kept, f"model.{'adapter' if is_lora else 'path'}={path}/{FINAL}"])
    if len(plan.phases) == 1 and stage == "pt":
        yield f"ftlab stage=sft data=instructions {weights}", "teach it to answer"
    elif len(plan.phases) == 1 and stage == "sft":
        yield f"ftlab stage=dpo data=preferences {weights}", "teach it which of two answers is better"
    elif stage == "rm":
        judge = shlex.quote(f"stage.reward_model={path}")
        yield f"ftlab stage=ppo data=prompts {judge}", "train against what it has learned to judge"
    if len(plan.phases) == 1 and config.data.path is None:
        chosen = "" if stage == "sft" else f"stage={stage} "
        yield f"ftlab {chosen}data.path=YOUR.json data.format={STAGE_FORMATS[stage][0]}", "the same on your own file"
    named = f" phase={plan.phases[-1].name}" if len(plan.phases) > 1 else ""
    yield f"ftlab inspect {place}{named} step=1", "the rows of a step, as the model saw them"
    if "tensorboard" in plan.phases[0].config.tracker.names:
        yield f"tensorboard --logdir {place}", "its curves"


def _both(before: Mapping[str, float], after: Mapping[str, float], measure: str) -> list[str]:
    """The cells of a measure, with a dash where it was not measured."""
    return [readable(values[measure], measure) if measure in values else _NONE for values in (before, after)]


def _samples(output: Output, run_dir: RunDir, phase: str) -> None:
    before, after = (_answers(run_dir, phase, when) for when in ("before", "after"))
    if not before and not after:
        return
    # One below the other: four columns of a few words each cannot be read in 80.
    table = Table(title=f"{phase}: answers", title_justify="left", show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for old, new in list(zip_longest(before, after))[:_SHOWN]:  # the same prompts, but maybe not as many
        asked = new or old
        answers = [_NONE if one is None else one["answer"] for one in (old, new)]
        table.add_row("prompt", escape(_short(asked["prompt"], from_end=True)))
        table.add_row("before", escape(_short(answers[0])))
        table.add_row("after", escape(_short(answers[1])), end_section=not asked["expected"])
        if asked["expected"]:
            table.add_row("expected", escape(_short(asked["expected"])), end_section=True)
    output.say(table)


def _answers(run_dir: RunDir, phase: str, when: str) -> list[dict[str, Any]]:
    values = read_samples(run_dir.samples_file(phase, when))
    return [] if values is None else values["samples"]


def _short(text: str, from_end: bool = False) -> str:
    """What fits into a few lines. :param from_end: of a prompt, whose question comes last."""
    lines = text.strip().split("\n")
    if from_end:
        cut = "\n".join(lines[-_LINES:])[-_LETTERS:]
        return cut if len(cut) == len(text.strip()) else f"...{cut}"
    cut = "\n".join(lines[:_LINES])[:_LETTERS]
    return cut if len(cut) == len(text.strip()) else f"{cut}..."
