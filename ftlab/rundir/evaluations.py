"""``evaluations/`` of a run directory: what ``ftlab evaluate`` has found, and the answers that it was found by."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ftlab.errors import RunDirError
from ftlab.rundir.documents import is_there, json_lines, read_json
from ftlab.rundir.files import write_atomic
from ftlab.rundir.lock import RunLock

FOLDER = "evaluations"  # of a run directory
_REMEDY = "Remove its folder, or name another with out=FOLDER, to evaluate anew."


class EvaluationDir:
    """One evaluation: a folder of its own. A context manager, which holds the folder's lock.

    :param path: the folder. :ivar json: values, intervals, settings. :ivar predictions: one line for each row.
    :ivar table: the same for people.
    """

    def __init__(self, path: Path):
        self.path = path
        self.json = path / "evaluation.json"
        self.predictions = path / "predictions.jsonl"
        self.table = path / "table.txt"
        self.harness = path / "lm_eval.json"
        self._lock = RunLock(path, make=True)
        self._file: IO[str] | None = None

    def __enter__(self) -> EvaluationDir:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    def read(self) -> dict[str, Any] | None:
        """What was written last; None where nothing was. :raises RunDirError: it is damaged."""
        return read_json(self.json, _REMEDY) if is_there(self.json) else None

    def write(self, values: Mapping[str, Any]) -> None:
        write_atomic(self.json, json.dumps(values, indent=2, ensure_ascii=False) + "\n")

    def write_table(self, text: str) -> None:
        write_atomic(self.table, text)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What was kept of an evaluation that was stopped; what a crash left of a last line is passed over.

        :raises RunDirError: a line is none.
        """
        if is_there(self.predictions):
            yield from (line for _, line in json_lines(self.predictions))

    def begin(self) -> None:
        """Make ready to add lines: half a last line is cut off."""
        if is_there(self.predictions):
            with self.predictions.open("rb+") as file:
                content = file.read()
                file.truncate(content.rfind(b"\n") + 1)
        self._file = self.predictions.open("a", encoding="utf-8")

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Keep lines, so that no crash of the process loses them."""
        assert self._file is not None, "begin() comes first"
        self._file.write("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self, lines: list[dict[str, Any]]) -> None:
        """Put the lines of all rows, in order, in the place of those that were added."""
        write_atomic(self.predictions, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))


def evaluations(run: Path) -> Iterator[EvaluationDir]:
    """Those of a run that have been written down, by name. :param run: the run directory."""
    for path in sorted((run / FOLDER).glob("*/evaluation.json")):
        yield EvaluationDir(path.parent)


def choose_folder(run: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where an evaluation goes: ``name``, or ``name-2``, ``name-3`` where others of that name are of something else.

    :param run: the run directory. :param identity: what an evaluation is of; the folder that has it goes on.
    """
    for number in itertools.count(1):
        folder = run / FOLDER / (name if number == 1 else f"{name}-{number}")
        if not is_there(folder):
            return folder
        try:
            known = EvaluationDir(folder).read()
        except RunDirError:
            continue  # a damaged one stays as it is
        if known is None or known.get("identity") == identity:
            return folder
    raise AssertionError("there is always another number")


def finished_evaluations(run: Path) -> list[dict[str, Any]]:
    """What every finished evaluation of a run has found, as its ``evaluation.json`` has it; damaged ones are passed
    over."""
    found = []
    for path in sorted((run / FOLDER).glob("*/evaluation.json")):
        try:
            values = read_json(path, _REMEDY)
        except RunDirError:
            continue
        kinds = {"status": str, "rows": int, "data": str, "split": str, "metrics": dict, "identity": dict}
        if all(isinstance(values.get(key), kind) for key, kind in kinds.items()) and values["status"] == "finished":
            found.append(values)
    return found
