"""What a user asks of a run while it is at work: a journal in the run directory that is only ever appended to.

The run reads it after every step, and writes down in its manifest, as ``control``, which line it has obeyed after which
step: a run that goes on from an earlier checkpoint obeys at the same steps again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import open_regular, parse_line
from ftlab.schema import Run

JOURNAL = "control.jsonl"
STOPPED = "ftlab control"  # why a job of a sweep is over, where its user has stopped it
Verb = Literal["pause", "resume", "stop", "set", "clone"]
Schedule = Literal["continue", "restart"]
Weights = Literal["parent", "scratch"]
# What a run may change between two steps, of its config.
IN_FLIGHT = (
    "train.learning_rate", "train.weight_decay", "train.max_grad_norm", "train.logging_steps", "train.save_steps",
    "eval.steps",
)  # fmt: skip


class Command(BaseModel):
    """A line of the journal.

    :param time: when it was asked for, as ISO 8601 has it.
    :param values: of ``set``, by key; of a ``clone`` that begins with an adapter the rank and the alpha that it is to
        have.
    :param overrides: of ``clone``: those of the new run, as they would be typed. :param changes: of them, those that
        were asked for. :param schedule: of ``clone``: whether it goes on with its parent's steps, optimizer and order
        of rows, or begins with its weights alone. :param weights: whether it has any of its parent's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    verb: Verb
    time: str
    values: dict[str, float] = {}
    overrides: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    schedule: Schedule = "continue"
    weights: Weights = "parent"


@dataclass(frozen=True)
class ControlJournal:
    """The journal of one run. :param folder: its directory."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / JOURNAL

    def clone_folder(self, line: int) -> Path:
        """Where the checkpoint is put aside that a clone begins with. :param line: that asks for it."""
        return self.folder / "clones" / str(line)

    def append(self, verb: Verb, **more: Any) -> int:
        """Ask for something. :return: the number of the line, from 0. :raises OSError: it cannot be written."""
        command = Command(verb=verb, time=datetime.now().astimezone().isoformat(timespec="seconds"), **more)
        there = self.path.read_bytes() if self.path.exists() else b""
        is_torn = bool(there) and not there.endswith(b"\n")
        line = json.dumps(command.model_dump(exclude_defaults=True))
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, f"{chr(10) * is_torn}{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return there.count(b"\n") + is_torn

    @property
    def size(self) -> int:
        """Bytes; 0 where nothing was asked for."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def read(self) -> list[Command | None]:
        """The lines; None stands for one that is no command, as one that a crash has cut short: training does not end
        because of it. :raises OSError: the file cannot be read."""
        if not self.path.exists():
            return []
        with open_regular(self.path) as file:
            *whole, _ = file.read().split(b"\n")  # what is behind the last end of a line is being written
        return [_command(line) for line in whole]

    def state(self) -> Literal["paused", "stopped"] | None:
        """What a run is to be that is not at work; None: it may go on."""
        return state_after(self.read())


def obeyed_state(folder: Path) -> Literal["paused", "stopped"] | None:
    """How a run has ended, where that is what its user asked for. :raises RunDirError: its manifest is damaged."""
    state = ControlJournal(folder).state()
    return state if state is not None and RunDir(folder).manifest().get("status") == state else None


def value_of(config: Run, key: str) -> Any:
    """What a config has for one of :data:`IN_FLIGHT`."""
    group, _, name = key.partition(".")
    return getattr(getattr(config, group), name)


def state_after(commands: Sequence[Command | None]) -> Literal["paused", "stopped"] | None:
    """What the last of some commands to pause, resume or stop asks for."""
    last = next((one.verb for one in reversed(commands) if one and one.verb in ("pause", "resume", "stop")), "resume")
    return {"pause": "paused", "stop": "stopped"}.get(last)  # type: ignore[return-value]


def _command(line: bytes) -> Command | None:
    try:
        return Command.model_validate(parse_line(line))
    except ValidationError:
        return None
