"""``ftlab init FILE``: what a file is, three of its rows as the model will see them, and the experiment for it."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.prompt import Prompt
from rich.table import Table

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_json
from ftlab.config import command_line, compose, experiment_file
from ftlab.config.experiment_file import Target
from ftlab.data.ledger.table import left_out_lines
from ftlab.data.prepare import Parts, Prepared, prepare, split_parts
from ftlab.data.sources import resolve
from ftlab.errors import ConfigError, DataError, Interrupted, Mistake, NotReadyError
from ftlab.policy.tokens import Tokens, load_tokens
from ftlab.schema import Data, Golden, InitTask, Run
from ftlab.use.init import file as init_file
from ftlab.use.init.guess import NEAR, ORDER, STAGES, Guess, guesses, select_fitting, tied_guesses
from ftlab.use.init.rows import SAMPLE, FirstRows, read_first
from ftlab.use.inspect.command import console, facts, print_samples
from ftlab.use.inspect.rows import first_rows
from ftlab.use.inspect.show import show_row

_SHOWN = 3
_STEP = 64  # tokens: a proposed length is a multiple
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def init(run: Run, overrides: Sequence[str]) -> None:
    """Guess, show, ask, write.

    :raises ConfigError, NotReadyError: no file; nobody to ask; an experiment of that name is there.
    :raises DataError: the file cannot be read, or no format fits its rows.
    """
    task = run.task
    assert isinstance(task, InitTask)
    if task.file is None:
        raise ConfigError([Mistake("task.file", "which file? For example: ftlab init my.json")])
    to = console() if task.format == "table" else Terminal(quiet=True)
    where = experiment_file.default_target(task.file, task.experiment, task.out, overrides)
    if not _asks_name(task):
        experiment_file.check_free(where, task.overwrite)
    rows = read_first(task.file, run.data)
    tried = guesses(rows.rows, _formats(run, overrides), run.data.columns)
    found = select_fitting(tried)
    if not found:
        raise DataError(_no_fit_message(rows, tried, run, overrides))
    if not task.yes and task.format == "json":
        raise NotReadyError("ftlab init asks before it writes; format=json says what was found, with --yes.")
    if not task.yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise NotReadyError("ftlab init asks before it writes, and nobody is here to ask. --yes takes the best guess.")
    _print_guesses(to, rows, found)
    stage, guess = _choose(to, tied_guesses(found), run, overrides, task)
    _print_choice(to, rows, stage, guess)
    given = init_file.user_overrides(overrides)
    is_length_given = any(override.startswith("data.max_length=") for override in given)
    length = _print_rows(to, rows, _run_of_guess(run, overrides, stage, guess, task.file), is_length_given)
    where = _ask_name(to, where, task) if _asks_name(task) else where
    experiment_file.write(where, init_file.text(where, task.file, stage, guess, given, rows.description, length))
    if task.format == "json":
        echo_json(_facts(rows, found, stage, guess, where, length))
    to.print(f"\nWritten to {where.path}. It trains with\n  ftlab {where.arguments}", soft_wrap=True, markup=False)
    to.print(f"and shows all its rows with\n  ftlab inspect {where.arguments}", soft_wrap=True, markup=False)


def _facts(
    rows: FirstRows, fitting: Sequence[Guess], stage: str, guess: Guess, where: Target, length: int | None
) -> dict[str, Any]:
    """What ``format=json`` prints. :param fitting: the formats that fit, the chosen one among them."""
    formats = [
        {"format": one.format, "rows": one.rows, "fit": len(one.records), "columns": one.columns, "tags": one.tags,
         "used": one.used, "unused": one.unused} for one in fitting
    ]  # fmt: skip
    dropped = [
        {"reason": reason, "rows": count, "first": rows.where(place)} for reason, count, place in guess.reasons()
    ]
    return {
        "file": rows.file, "formats": formats, "format": guess.format, "stage": stage, "dropped": dropped,
        "max_length": length, "experiment": str(where.path), "command": f"ftlab {where.arguments}",
    }  # fmt: skip


# --- what the file is ------------------------------------------------------------------------------------------------


def _formats(run: Run, overrides: Sequence[str]) -> list[str]:
    """Those that the user leaves open."""
    if run.data.format is not None:
        return [run.data.format]
    stage = _given_stage(run, overrides)
    return [format_ for format_ in ORDER if stage is None or stage in STAGES[format_]]


def _given_stage(run: Run, overrides: Sequence[str]) -> str | None:
    return run.stage.name if any(override.startswith("stage=") for override in overrides) else None


def _no_fit_message(rows: FirstRows, nearest: Sequence[Guess], run: Run, overrides: Sequence[str]) -> str:
    names = dict.fromkeys(name for row in rows.rows if row.problem is None for name in row.value)
    listed = f"columns {', '.join(map(repr, names))}" if names else "no row of which has columns"
    stage = _given_stage(run, overrides)
    asked = f" that stage={stage} trains on" if stage else ""
    lines = [f"{rows.file}: no format{asked} fits {rows.description} ({listed}). The nearest:"]
    for guess in nearest[:NEAR]:
        reason, count, place = guess.reasons()[0]
        others = f", and {count - 1} more" if count > 1 else ""
        lines.append(f"  - {guess.format}: {rows.where(place)}{others}: {reason}")
    if stage and (other := select_fitting(guesses(rows.rows, ORDER, run.data.columns))):
        lines.append(f"It reads as {other[0].format}, for stage={' or '.join(STAGES[other[0].format])}.")
    column = "messages" if nearest[0].format == "sharegpt" else "instruction"
    lines.append(f"Rename columns, or say what they are: ftlab init {rows.file} data.columns.{column}=YOURS")
    return "\n".join(lines)


def _print_guesses(to: Terminal, rows: FirstRows, guesses: Sequence[Guess]) -> None:
    to.print(f"{rows.file}: {rows.description}", soft_wrap=True, markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("format", "rows that fit", "columns used", "with"):
        table.add_column(column, overflow="fold")
    for guess in guesses[:NEAR]:
        used = f"{len(guess.used)} of {len(guess.used) + len(guess.unused)}"
        said = [f"{user if user is not None else 'nothing'} as {column}" for column, user in guess.columns.items()]
        said += [f"{word} for {tag}" for tag, word in guess.tags.items()]
        table.add_row(guess.format, f"{len(guess.records)} of {guess.rows}", used, escape(", ".join(said)))
    to.print(table)


def _choose(
    to: Terminal, guesses: Sequence[Guess], run: Run, overrides: Sequence[str], task: InitTask
) -> tuple[str, Guess]:
    """The stage, among those that the formats are for, and the format, where the stage leaves two."""
    stage = _given_stage(run, overrides)
    stages = list(dict.fromkeys(stage for guess in guesses for stage in STAGES[guess.format]))
    if stage is None:
        stage = stages[0] if task.yes or len(stages) == 1 else _ask(to, "\nWhat for? stage", stages)
    left = [guess for guess in guesses if stage in STAGES[guess.format]]
    if task.yes or len(left) == 1:
        return stage, left[0]
    format_ = _ask(to, "Two fit equally. format", [guess.format for guess in left])
    return stage, next(guess for guess in left if guess.format == format_)


def _ask(to: Terminal, question: str, choices: list[str] | None, default: str | None = None) -> str:
    try:
        return Prompt.ask(question, console=to, choices=choices, default=default or (choices or [""])[0])
    except EOFError:
        raise Interrupted("\nNothing was written.") from None


def _print_choice(to: Terminal, rows: FirstRows, stage: str, guess: Guess) -> None:
    to.print(f"\nTaken as [bold]{guess.format}[/bold], for stage={stage}.")
    if guess.unused:
        to.print(f"[yellow]not used: {escape(', '.join(guess.unused))}[/yellow]", soft_wrap=True)
    for reason, count, place in guess.reasons():
        said = f"{count} row{'s' * (count != 1)} would be dropped, first {rows.where(place)}: {reason}"
        to.print(f"[yellow]{escape(said)}[/yellow]", soft_wrap=True)
    to.print()


# --- three rows ------------------------------------------------------------------------------------------------------


def _run_of_guess(run: Run, overrides: Sequence[str], stage: str, guess: Guess, file: str) -> Run:
    given = command_line.read(overrides)
    loader, config_name = compose.select_loader(given.config_dir, given.config_name)
    composed = compose.read([*init_file.user_overrides(overrides), f"stage={stage}"], loader, config_name)
    update = {"path": file, "format": guess.format, "columns": guess.columns, "tags": guess.tags, "name": None}
    update["on_invalid"] = "drop" if guess.problems else composed.data.on_invalid
    return composed.model_copy(update={"data": composed.data.model_copy(update=update)})


def _print_rows(to: Terminal, rows: FirstRows, run: Run, is_length_given: bool) -> int | None:
    """The first rows that can be trained on, prepared as they will be, and the first that needs more than the usual
    length. What keeps them from it is no failure here.

    :param is_length_given: whether the user chose ``data.max_length``.
    :returns: the length that keeps (nearly) all rows whole, where the usual one does not and the model can have it.
    """
    with tempfile.TemporaryDirectory(prefix="ftlab-init-") as folder:
        head = Path(folder) / "rows.jsonl"
        places = [place for place, row in enumerate(rows.rows) if row.problem is None]
        lines = (json.dumps(rows.rows[place].value, default=str) for place in places)
        head.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        try:
            tokens = load_tokens(run)
            length = None if is_length_given else _better_length(head, run, tokens)
            data, parts, prepared = _prepared(head, run, tokens, length or run.data.max_length)
        except (DataError, NotReadyError) as error:
            said = str(error).replace(str(head), rows.file)
            to.print(f"[yellow]{escape(f'Its rows cannot be shown with model={run.model.name}: {said}')}[/yellow]")
            return None
        good = list(first_rows(prepared.train, parts["train"], SAMPLE, data, tokens.tokenizer))
        long = [row for row in good[_SHOWN:] if max(len(s.input_ids) for s in row.samples) > run.data.max_length]
        shown = [*good[:_SHOWN], *(long[:1] if length is not None else [])]

        def name_row(where: str) -> str:
            return rows.where(places[int(where.rpartition(":")[2]) - 1])

        named = [replace(row, where=name_row(row.where)) for row in shown]
        samples = [sample for row in named for sample in show_row(row, tokens, False)]
        of_model = [fact for fact in facts(run, (), "train", tokens) if fact[0] != "data"]
        print_samples(to, of_model, samples)
        ledger = prepared.ledger.splits["train"]
        limit = f"data.max_length={data.max_length}"
        dropped = {reason: count for reason, count in ledger.dropped.items() if "max_length" in reason}
        said_of = [f"{count} would be dropped, {reason}" for reason, count in dropped.items()]
        said_of += [f"{ledger.rows_truncated} cut to {limit}"] if ledger.rows_truncated else []
        if length is not None:
            kept = "all" if not said_of else "nearly all"
            usual = f"model={run.model.name} has {run.data.max_length} by default"
            to.print(f"{limit} keeps {kept} of {rows.description} whole, and is written ({usual}).", soft_wrap=True)
        if said_of:
            to.print(f"[yellow]of {rows.description}: {escape('; '.join(said_of))}[/yellow]", soft_wrap=True)
            needed = ledger.needed or {}
            most = run.model.architecture.max_positions
            if needed and needed["most"] > data.max_length:
                room = "" if needed["most"] <= most else f", more than the {most:,} positions of model={run.model.name}"
                to.print(f"data.max_length={needed['most']} would keep 99 % of them whole{room}", soft_wrap=True)
        for line in left_out_lines(ledger, rows.description, name_row):
            to.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
        return length


def _better_length(head: Path, run: Run, tokens: Tokens) -> int | None:
    """The length within the model's positions that keeps all rows whole, or 99 % where the others are twice as long;
    None where the usual one does. Of plain text nothing is lost: it is cut into chunks."""
    most = run.model.architecture.max_positions
    if run.data.format == "text" or most <= run.data.max_length:
        return None
    ledger = _prepared(head, run, tokens, most)[2].ledger.splits["train"]
    nearly_all, all_ = ledger.percentiles["p99"], ledger.percentiles["p100"]
    if ledger.needed is not None:  # some are longer than the model can have
        return most
    wanted = all_ if all_ <= 2 * nearly_all else nearly_all
    return min(-(-wanted // _STEP) * _STEP, most) if wanted > run.data.max_length else None


def _prepared(head: Path, run: Run, tokens: Tokens, length: int) -> tuple[Data, Parts, Prepared]:
    """The rows in a file, prepared alone."""
    no_split = run.data.split.model_copy(update={"validation": "none", "test": "none", "golden": "none"})
    no_golden = Golden(format=None, columns={}, tags={})
    update = {
        "path": str(head),
        "cache": None,
        "split": no_split,
        "golden": no_golden,
        "max_samples": None,
        "num_samples": None,
    }
    data = run.data.model_copy(update={**update, "max_length": length})
    sources = resolve.resolve(data, run.stage.name)
    parts = split_parts(sources, data, run.seed)
    return data, parts, prepare(sources, parts, data, run.seed, tokens.template, tokens.tokenizer)


# --- the experiment --------------------------------------------------------------------------------------------------


def _asks_name(task: InitTask) -> bool:
    """Whether the name is not given, nor anything that it follows from."""
    return task.experiment is None and not task.yes and not task.out.endswith((".yaml", ".yml"))


def _ask_name(to: Terminal, where: Target, task: InitTask) -> Target:
    while True:
        target = replace(where, name=_ask(to, "What shall it be called? experiment", None, where.name))
        if not _NAME.fullmatch(target.name):
            to.print("letters, digits, _, . and - only")
        elif target.path.exists() and not task.overwrite:
            to.print(f"{target.path} is there already", soft_wrap=True, markup=False)
        else:
            return target
