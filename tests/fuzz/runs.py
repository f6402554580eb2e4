"""Real runs to be damaged: one that was stopped, the same finished, and what every command says of a copy of one."""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from ftlab.config import command_line
from ftlab.engine.reproduce import reproduce
from ftlab.engine.tasks import resume, train
from ftlab.errors import FtlabError
from ftlab.rundir.directory import RunDir
from ftlab.use.diff import diff
from ftlab.use.inspect.command import inspect
from ftlab.use.ls import ls
from tests.runs import final_hash, held_out, interrupted_run, make_run, resume_run

KEYS = (
    "eval.golden_rows=2", "eval.samples=1", "eval.max_new_tokens=2", "train.logging_steps=1", "train.max_steps=5",
    "train.save_steps=2", "data.max_samples=24", "eval.steps=2", "eval.generate_every=2", "tracker=none",
    "lora.dropout=0.1",
)  # fmt: skip
READERS = ("ls", "ls json", "diff", "inspect", "inspect step")
STARTS = ("resume", "train")
AGAIN = "reproduce"


@dataclass(frozen=True)
class Runs:
    """:param given: the command of the run that is damaged, whose directory is always ``folder``."""

    stopped: Path
    finished: Path
    folder: Path
    given: tuple[str, ...]
    hash: str

    @property
    def reproduced(self) -> RunDir:
        """The run that ``reproduce`` makes of the copy."""
        return RunDir(self.folder.with_name(f"{self.folder.name}-reproduced"))

    def copy(self, kind: str) -> RunDir:
        """A fresh copy of a run, in the one folder. :param kind: ``stopped`` or ``finished``."""
        for folder in (self.folder, self.reproduced.path):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(getattr(self, kind), self.folder, symlinks=True)
        return RunDir(self.folder)

    def told(self, command: str) -> str:
        """Run a command on the copy: what it printed, or its one refusal. Anything else is raised."""
        out = io.StringIO()
        tasks = {
            "ls": (ls, ("ls", str(self.folder))),
            "ls json": (ls, ("ls", str(self.folder), "format=json")),
            "diff": (diff, ("diff", str(self.folder), str(self.finished))),
            "inspect": (inspect, ("inspect", str(self.folder))),
            "inspect step": (inspect, ("inspect", str(self.folder), "step=2")),
            "resume": (resume, ("task=resume", f"run.dir={self.folder}")),
            "train": (train, self.given),
            "reproduce": (reproduce, ("task=reproduce", f"run.dir={self.folder}")),
        }
        task, words = tasks[command]
        with contextlib.redirect_stdout(out):
            try:
                task(make_run(*words), command_line.read(words).overrides)
            except FtlabError as error:
                print(error)
        return out.getvalue()


def make_runs(folder: Path) -> Runs:
    target = folder / "r"
    given = (*KEYS, held_out(folder, "instructions", 2), f"run.dir={target}")
    interrupted_run(target, 2, *given[:-1])
    shutil.copytree(target, folder / "stopped", symlinks=True)
    whole = resume_run(target)
    shutil.copytree(target, folder / "finished", symlinks=True)
    return Runs(folder / "stopped", folder / "finished", target, given, final_hash(whole))
