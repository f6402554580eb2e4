"""``ftlab mine repo=PATH out=DIR``: a git repository as the three data sets of phase=codebase."""

from __future__ import annotations

import codecs
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_json
from ftlab.errors import ConfigError, Mistake, NotReadyError
from ftlab.schema import MineTask, Run
from ftlab.use.mine.repository import Repository
from ftlab.use.mine.sets import PHASES, Miner
from ftlab.use.mine.write import REGISTRY, REPORT, Rows, files_of

_OF_TINY = "phases.foundation.deepspeed=none data.max_length=1024 data.overlap=64"


def mine(run: Run, overrides: Sequence[str]) -> None:
    """Read, sift, write, tell.

    :raises ConfigError: no repository or folder is named, or an unknown encoding.
    :raises NotReadyError: no git, no repository, nothing in it, or a folder that is there already.
    """
    task = run.task
    assert isinstance(task, MineTask)
    _check(task)
    assert task.repo is not None and task.out is not None
    out = Path(task.out).expanduser()
    with Repository(task.repo, task.revision) as repository, _folder(out, task.overwrite) as folder:
        try:
            miner = Miner(task, repository, folder)
            miner.files()
            miner.commits()
            miner.series()
            sets = miner.finish()
            _move(folder, out)
        except OSError as error:
            raise NotReadyError(f"task.out={out} cannot be written: {error.strerror}.") from None
    if task.format == "json":
        echo_json(_facts(sets, miner, out, repository))
    else:
        _print(sets, miner, out, repository)


def _check(task: MineTask) -> None:
    mistakes = []
    if task.repo is None:
        mistakes.append(Mistake("task.repo", "which repository? For example: ftlab mine repo=. out=mined"))
    if task.out is None:
        mistakes.append(Mistake("task.out", "which folder takes the files? For example: ftlab mine repo=. out=mined"))
    try:
        codecs.lookup(task.encoding or "utf-8")
    except LookupError:
        mistakes.append(Mistake("task.encoding", "no encoding that Python knows, such as latin-1.", task.encoding))
    if mistakes:
        raise ConfigError(mistakes)


@contextmanager
def _folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside ``out`` to write in, so that a mining which is stopped leaves ``out`` as it was."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
        hint = " task.overwrite=true replaces what a mining wrote there." if out.is_dir() else " It is no folder."
        raise NotReadyError(f"task.out={out} is there already.{hint}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-")
    except OSError as error:
        raise NotReadyError(f"task.out={out} cannot be written: {error.strerror}.") from None
    with folder as path:
        yield Path(path)


def _move(folder: Path, out: Path) -> None:
    out.mkdir(exist_ok=True)
    (out / REPORT).unlink(missing_ok=True)
    for name in files_of(list(PHASES)):
        (folder / name).replace(out / name)


# --- what is said ----------------------------------------------------------------------------------------------------


def _facts(sets: Sequence[Rows], miner: Miner, out: Path, repository: Repository) -> dict[str, Any]:
    found = {
        rows.name: {
            "seen": rows.seen, "train": rows.train, "validation": rows.validation, "bytes": rows.size,
            "kept": dict(rows.kept), "left_out": dict(rows.left_out), "files_left_out": dict(rows.parts_left_out),
        }
        for rows in sets
    }  # fmt: skip
    return {
        "out": str(out), "registry": str(out / REGISTRY), "report": str(out / REPORT), "sets": found,
        "secrets": len(miner.account.secrets), "shallow": repository.is_shallow,
        "phases": [PHASES[rows.name] for rows in sets if rows.train],
    }  # fmt: skip


def _print(sets: Sequence[Rows], miner: Miner, out: Path, repository: Repository) -> None:
    to = Terminal(highlight=False, emoji=False)
    if to.known_width is None:
        to = Terminal(highlight=False, emoji=False, width=160)
    if repository.is_shallow:
        to.print("[yellow]A shallow clone: its history ends early. git fetch --unshallow gets the rest.[/yellow]")
    table = Table(box=None, pad_edge=False)
    for column in ("set", "seen", "train", "validation", "MiB", "left out"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for rows in sets:
        numbers = (rows.seen, rows.train, rows.validation)
        left_out = f"{sum(rows.left_out.values()):,}"
        table.add_row(rows.name, *(f"{number:,}" for number in numbers), f"{rows.size / 2**20:.1f}", left_out)
    to.print(table)
    for rows in sets:
        _print_reasons(to, rows)
    if count := len(miner.account.secrets):
        said = f"Secrets: {count} of all these look like they hold one, and are left out; {REPORT} names them."
        to.print(f"[yellow]{escape(said)}[/yellow]", soft_wrap=True)
    to.print(f"\nWritten to {out}, with {REPORT}.", soft_wrap=True, markup=False)
    trained = [PHASES[rows.name] for rows in sets if rows.train]
    if not trained:
        to.print("No row is left to train on.")
        return
    chosen = "" if len(trained) == len(PHASES) else f" 'run.phases=[{','.join(trained)}]'"
    to.print(
        f"It trains the embedded model with\n  ftlab phase=codebase {_registry(out)}{chosen} {_OF_TINY}\n"
        "and others at their own length with model=NAME instead of data.max_length and data.overlap,",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    first = next(rows.name for rows in sets if rows.train)
    to.print(
        f"and shows its rows with\n  ftlab inspect stage=pt {_registry(out)} data={first}", soft_wrap=True, markup=False
    )


def _print_reasons(to: Console, rows: Rows) -> None:
    for title, counts in (("left out", rows.left_out), ("files left out of its diffs", rows.parts_left_out)):
        if counts:
            said = ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
            to.print(f"{rows.name}, {title}: {said}", soft_wrap=True, markup=False)
    if rows.kept.keys() - {"file", "commit"}:
        said = ", ".join(f"{count:,} {kind}" for kind, count in rows.kept.most_common())
        to.print(f"{rows.name}, kept: {said}", soft_wrap=True, markup=False)


def _registry(out: Path) -> str:
    path = str(out / REGISTRY)
    return f"data.registry={path}" if re.fullmatch(r"[\w./@%+-]+", path) else shlex.quote(f"data.registry='{path}'")
