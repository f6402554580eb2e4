"""``ftlab inspect``: the first rows as the model will see them, the ledger, and whether they read back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.progress import Progress
from rich.text import Text as Coloured

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo, echo_json
from ftlab.data.ledger import table as show
from ftlab.data.packing.split_builder import Part
from ftlab.data.prepare import Prepared, prepare, split_parts
from ftlab.data.sources import resolve
from ftlab.errors import ConfigError, DataError, Mistake, NotReadyError
from ftlab.policy.tokens import Tokens, load_tokens
from ftlab.rundir.files import write_atomic
from ftlab.rundir.start_folder import in_start_folder
from ftlab.schema import InspectTask, Run
from ftlab.use.inspect import page as inspect_page
from ftlab.use.inspect.check import read_back
from ftlab.use.inspect.rows import Row, first_rows, rows_beforehand
from ftlab.use.inspect.screen import is_screen, preview, views_that_fit
from ftlab.use.inspect.show import LEGEND, Piece, SampleView, as_coloured, as_plain, marks_for, show_row
from ftlab.use.inspect.step import StartedPhase, find_run, find_started_phase, step_report

_PIPE_WIDTH = 160  # of tables where there is no terminal


def inspect(run: Run, overrides: Sequence[str]) -> None:
    """Print what a run would be trained on, or one that there is was. Reads the tokenizer, no weights.

    :raises ConfigError: the data has no such split, the run no such phase or step.
    :raises RunDirError: what is named is no run, or its data has changed.
    :raises DataError: a row is not what the tokenizer's own template writes.
    """
    task = run.task
    assert isinstance(task, InspectTask)
    _check_page(task.html)
    run_dir = find_run(run, overrides)
    if run_dir is None:
        _inspect(run, task, None)
        return
    page = None if task.html is None else str(Path(task.html).expanduser().absolute())
    with in_start_folder(run_dir) as (run_dir, remark):
        if remark is not None:
            echo(remark)
            task = task.model_copy(update={"html": page})
        started = find_started_phase(run_dir, task)
        _inspect(started.config, task, started)


def _inspect(run: Run, task: InspectTask, of_run: StartedPhase | None) -> None:
    """:param of_run: what ``run`` is the config of, where there is a run."""
    try:
        sources = resolve.resolve(run.data, run.stage.name)
    except DataError as error:
        raise DataError(f"{error}{of_run.run_dir.start_folder_hint() if of_run is not None else ''}") from None
    if of_run is not None:
        of_run.check_data(sources)
    parts = split_parts(sources, run.data, run.seed, _progress)
    if task.split not in parts:
        raise ConfigError(
            [Mistake("task.split", f"this data has no such split. It has: {', '.join(parts)}.", task.split)]
        )
    tokens = load_tokens(run)
    if of_run is not None and task.step is not None:
        prepared = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer, _progress)
        told, samples = step_report(of_run, task, parts["train"], prepared.train, tokens.tokenizer)
        Report([*told, *facts(run, parts["train"], "train", tokens)], samples, None, "", None).show(task)
        return
    of, reader = facts(run, parts[task.split], task.split, tokens), (parts[task.split], run.data, tokens.tokenizer)
    # Rows are shown before all of them are prepared; not where a page is written, which a closed pipe must not prevent.
    early = None
    if task.html is None and task.format == "table":
        early = rows_beforehand(task.split, reader[0], task.rows, run.data, run.seed, tokens)
    to = console()
    shown_early: AbstractContextManager[None] = nullcontext()
    samples = [] if early is None else _views(early, tokens, task, to)
    if early is not None and is_screen(to):
        shown_early = preview(to, _captured(to, of, samples))
    elif early is not None:
        print_samples(to, of, samples)
    with shown_early:
        prepared = prepare(sources, parts, run.data, run.seed, tokens.template, tokens.tokenizer, _progress)
    rows = prepared.rows.get(task.split)
    if rows is not None and early is None:
        samples = _views(list(first_rows(rows, reader[0], task.rows, *reader[1:])), tokens, task, to)
    failure, said = None, f"not read back (check={task.check})"
    if task.check and rows is not None:
        try:
            checked = first_rows(rows, reader[0], task.check, *reader[1:])
            said = read_back(checked, run, tokens).summary_line(run)
        except (DataError, NotReadyError) as error:
            failure = error
    has_printed = early is not None and not is_screen(to)
    Report(of, samples, prepared, said, failure, has_printed).show(task)


def _views(rows: Sequence[Row], tokens: Tokens, task: InspectTask, to: Terminal) -> list[SampleView]:
    if task.html is None and task.format == "table" and is_screen(to):
        return views_that_fit(rows, tokens, task.full, to)
    return [sample for row in rows for sample in show_row(row, tokens, task.full)]


def _captured(to: Terminal, of: Sequence[tuple[str, str]], samples: Sequence[SampleView]) -> str:
    with to.capture() as captured:
        print_samples(to, of, samples)
    return captured.get()


@dataclass(frozen=True)
class Report:
    """:param prepared: whose ledger is shown; None of one step. :param failure: in the place of ``result``, if any.
    :param has_printed: whether the facts and samples have been printed.
    """

    facts: list[tuple[str, str]]
    samples: list[SampleView]
    prepared: Prepared | None
    result: str
    failure: Exception | None
    has_printed: bool = False

    @property
    def tables(self) -> list[Any]:
        """Rich renderables and markup."""
        return [] if self.prepared is None else _tables(self.prepared)

    def show(self, task: InspectTask) -> None:
        """Print it, and write it to a page. :raises Exception: the failure."""
        if task.html is not None:  # before a closed pipe can end the printing
            page = inspect_page.page(self.facts, self.samples, self.tables, self.result, self.failure)
            _write(Path(task.html).expanduser(), page)
        if task.format == "json":
            echo_json(self.as_dict())
        else:
            self.print(console())
            if task.html is not None:
                echo(f"written to {task.html}")
        if self.failure is not None:
            raise self.failure

    def as_dict(self) -> dict[str, Any]:
        """Of each sample its pieces, with whether they are trained."""
        samples = [
            {"title": sample.title, "left_out": sample.left_out or None,
             "text": [_piece(one) for one in sample.text], "ids": [_piece(one) for one in sample.ids]}
            for sample in self.samples
        ]  # fmt: skip
        ledger = None if self.prepared is None else self.prepared.ledger.as_dict()
        failure = None if self.failure is None else str(self.failure)
        return {"facts": dict(self.facts), "samples": samples, "ledger": ledger, "read_back": self.result or None,
                "failure": failure}  # fmt: skip

    def print(self, to: Terminal) -> None:
        """On a screen the samples come last, as the tables would push them away; elsewhere first, for ``| head``."""
        if is_screen(to):
            print_facts(to, self.facts)
            to.print()
            if self.prepared is not None:
                self._print_tables(to)
                to.print()
            print_samples(to, [], self.samples)
        else:
            if not self.has_printed:
                print_samples(to, self.facts, self.samples)
            self._print_tables(to)
            to.print()
        if self.failure is None and self.result:
            to.print(escape(self.result), soft_wrap=True)

    def _print_tables(self, to: Terminal) -> None:
        for line in self.tables:
            to.print(line, soft_wrap=isinstance(line, str))


def _piece(piece: Piece) -> dict[str, Any]:
    return {"text": piece.text, "kind": piece.kind, "trained": piece.trained}


def print_facts(to: Terminal, about: Sequence[tuple[str, str]]) -> None:
    for name, value in about:
        to.print(f"{name:<11}{escape(value)}", soft_wrap=True)


def print_samples(to: Terminal, about: Sequence[tuple[str, str]], samples: Sequence[SampleView]) -> None:
    """The facts, how to read the rows, and the rows; in colour on a terminal that has any."""
    in_colour = to.is_terminal and not to.no_color and to.color_system is not None
    marks = marks_for(piece for sample in samples for piece in sample.text)
    how = "[black on green]green[/] is what is trained" if in_colour else f"{' '.join(marks)} enclose what is trained"
    print_facts(to, about)
    if samples:
        to.print(f"{'reading':<11}{how}; {LEGEND}", soft_wrap=True)
    for sample in samples:
        to.print(f"\n[bold]{escape(sample.title)}[/bold]", soft_wrap=True)
        if sample.left_out:
            to.print(f"[yellow]{escape(sample.left_out)}[/yellow]", soft_wrap=True)
        for pieces, before, between in ((sample.text, "", ""), (sample.ids, "ids: ", " ")):
            text = as_coloured(pieces, between) if in_colour else Coloured(as_plain(pieces, marks, between))
            if text.plain.endswith("\n"):  # it is drawn
                text.right_crop(1)
            to.print(Coloured(before) + text, soft_wrap=True)
    to.print()


def console() -> Terminal:
    found = Terminal(highlight=False, emoji=False)
    return found if found.known_width is not None else Terminal(highlight=False, emoji=False, width=_PIPE_WIDTH)


def facts(run: Run, parts: Sequence[Part], split: str, tokens: Tokens) -> list[tuple[str, str]]:
    """Return the facts about what is shown: the data, the template and the tokenizer."""
    tokenizer = tokens.tokenizer

    def written(ids: Sequence[int]) -> str:
        return " or ".join(tokenizer.decode([id_], skip_special_tokens=False) for id_ in ids)

    found = [
        ("data", f"{part.source.name} ({part.source.format}): {_rows(part.rows)} of {split} from {part.location}")
        for part in parts
    ]
    named = f"{run.model.template} (model.template)" if run.model.template else "the tokenizer's own"
    found.append(("template", f"none: each text ends with {tokenizer.eos_token}" if tokens.template is None else named))
    added = f"; {tokens.additions}" if str(tokens.additions) else ""
    ends = f"{written(tokens.stop)} ends an answer, " if tokens.template else ""
    about = f"{len(tokenizer):,} tokens; {ends}{tokenizer.pad_token} pads{added}"
    found.append(("tokenizer", f"{run.model.path}: {about}"))
    if tokens.warning is not None:
        found.append(("warning", tokens.warning))
    return found


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _tables(prepared: Prepared) -> list[Any]:
    lines: list[Any] = list(show.ledger_lines(prepared.ledger, prepared.cached, prepared.damaged))
    for name, split in prepared.ledger.splits.items():
        bars = [escape(line) for line in show.lengths(split)]
        lines += [f"\n{name}: tokens of a sample before it is cut", *bars] if bars else []
    return lines


@contextmanager
def _progress(description: str, total: int, unit: str) -> Iterator[Any]:
    """A bar on the terminal, beside what is printed and not in it."""
    to = Terminal(stderr=True)
    with Progress(console=to, transient=True, disable=not to.is_terminal) as bars:
        task = bars.add_task(description, total=total)
        yield _Bar(bars, task)


@dataclass(frozen=True)
class _Bar:
    bars: Progress
    task: Any

    def advance(self, count: int = 1) -> None:
        self.bars.advance(self.task, count)


def _check_page(html: str | None) -> None:
    """:raises NotReadyError: something that is no file is there: a page would take the place of a pipe or a device."""
    path = None if html is None else Path(html).expanduser()
    if path is not None and path.exists() and not path.is_file():
        raise NotReadyError(f"task.html={html} is there and is no file. Name a file, such as html=page.html.")


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, text)
    except OSError as error:
        raise NotReadyError(f"task.html={path} cannot be written: {error.strerror}.") from None
