"""``ftlab report SWEEP|RUN...``: reads, draws, and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlab.base.redaction import redact
from ftlab.base.terminal import echo
from ftlab.errors import NotReadyError
from ftlab.preflight.packages import missing_plots
from ftlab.rundir.files import write_atomic
from ftlab.rundir.sweep import is_sweep
from ftlab.schema import ReportTask, Run
from ftlab.use.report.collect import collect

_NAME = "report.html"


def report(run: Run, overrides: Sequence[str]) -> None:
    """Write the page, and say where it is.

    :raises ConfigError: what was named is no sweep and no run. :raises RunDirError: it cannot be read.
    :raises NotReadyError: a package is missing, or the page cannot be written.
    """
    task = run.task
    assert isinstance(task, ReportTask)
    if lacking := missing_plots():
        raise NotReadyError("\n".join(lacking))
    collected = collect(task.runs, task.objective)
    path = _path(task)
    if path.exists() and not path.is_file():
        raise NotReadyError(f"task.out={path} is there and is no file. Name a file, such as out=page.html.")
    from ftlab.use.report.page import page  # which imports plotly

    text = page(collected, task.smoothing)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise NotReadyError(f"task.out={path} cannot be written: {error.strerror}.") from None
    for problem in collected.problems:
        echo(problem)
    runs = f"{len(collected.runs)} runs" if len(collected.runs) > 1 else "1 run"
    echo(f"{runs} in {redact(str(path))} ({len(text.encode()) / 1e6:.1f} MB); open it in a browser")


def _path(task: ReportTask) -> Path:
    if task.out is not None:
        return Path(task.out).expanduser()
    folder = Path(task.runs[0]).expanduser()
    return folder / _NAME if len(task.runs) == 1 and is_sweep(folder) else Path(_NAME)
