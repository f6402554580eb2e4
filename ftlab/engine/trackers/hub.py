"""All trackers of a run. One that fails is told once and left alone; training never notices."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape

from ftlab.base.redaction import redact, redact_values
from ftlab.distributed.world import current_world
from ftlab.engine.trackers.base import TrackedRun, Tracker, scalars
from ftlab.engine.trackers.mlflow import Mlflow
from ftlab.engine.trackers.tensorboard import TensorBoard
from ftlab.engine.trackers.wandb import Wandb
from ftlab.rundir.directory import RunDir
from ftlab.rundir.documents import is_there
from ftlab.rundir.files import write_atomic
from ftlab.rundir.manifest import Manifest
from ftlab.rundir.plan import Plan
from ftlab.rundir.records import read_ledger, read_samples, read_trackers
from ftlab.rundir.sweep import sweep_of_run

KINDS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
_ENVIRONMENT = ("ftlab", "python", "packages", "machine", "git")  # of the manifest
_LONGEST = 300  # characters of an error


class Trackers:
    """They are opened by whoever has something to log first, and closed with the run's status.

    :param plan: the run's. :param manifest: as the run keeps it.
    :param say: takes a line of rich markup for the terminal and the log.
    """

    def __init__(self, run_dir: RunDir, plan: Plan, manifest: Manifest, say: Callable[[str], None]):
        self._run_dir, self._plan, self._manifest, self._say = run_dir, plan, manifest, say
        self._open: dict[str, Tracker] = {}
        self._opened = False
        self._of_several = len(plan.phases) > 1
        self._sent: set[str] = set()  # documents and samples

    def open(self) -> None:
        """Once for all phases: begin or continue the run in each tracker, and give it what was logged so far.

        ``metrics.jsonl`` has been cut back to the checkpoint by then.
        """
        if self._opened:
            return
        self._opened = True
        names = self._plan.phases[0].config.tracker.names
        if not names or not current_world().is_first:
            return
        about = self._about()
        for name in names:
            self._guarded(name, lambda name=name: self._begin(name, about))  # type: ignore[misc]
        self._document(
            self._run_dir.run_yaml.name, 0, yaml.safe_dump(about.config, sort_keys=False, allow_unicode=True)
        )
        self._catch_up(self._plan.phases)

    def log(self, line: dict[str, Any]) -> None:
        """A line of ``metrics.jsonl``."""
        self._each("log", line["global_step"], scalars(line, self._of_several), line["time"])

    def ledger(self, phase: str, step: int) -> None:
        """What became of the rows of a phase that begins at this step."""
        values = read_ledger(self._run_dir.ledger(phase))
        text = json.dumps(redact_values(values), indent=2, ensure_ascii=False)
        self._document(f"data/{phase}.json", step, text + "\n")

    def samples(self, path: Path, step: int) -> None:
        """:param path: a file of ``samples/``."""
        values = read_samples(path)
        samples = [] if values is None else redact_values(values["samples"])
        if samples and path.stem not in self._sent:
            self._sent.add(path.stem)
            self._each("samples", path.stem, step, samples)

    def finish(self, status: str) -> None:
        self._each("finish", status)
        self._open = {}

    def _about(self) -> TrackedRun:
        run_dir = self._run_dir
        kept = run_dir.trackers_json
        if not is_there(kept):
            begun = {"key": secrets.token_hex(8), "mlflow": f"sqlite:///{Path.cwd()}/mlflow.db"}
            write_atomic(kept, json.dumps(begun, indent=2) + "\n")
        ours = read_trackers(kept)
        configs = {phase.name: phase.config.model_dump(mode="json") for phase in self._plan.phases}
        first = next(iter(configs.values()))
        manifest = self._manifest.values
        sweep = sweep_of_run(run_dir.path)
        return TrackedRun(
            folder=run_dir.path.absolute(),
            project=redact_values(first["tracker"]["project"]),
            key=ours["key"],
            store=ours["mlflow"],
            config=redact_values(configs if len(configs) > 1 else first),
            environment=redact_values({name: manifest[name] for name in _ENVIRONMENT if name in manifest}),
            sweep=None if sweep is None else redact_values(sweep[0].path.name),
        )

    def _begin(self, name: str, about: TrackedRun) -> None:
        tracker = KINDS[name](about)
        told = tracker.begin()
        self._open[name] = tracker
        if told is not None:
            self._say(f"[dim]{name}: {escape(told)}[/dim]")

    def _catch_up(self, phases: Sequence[Any]) -> None:
        """Everything that the run directory has, in the order of the steps."""
        done = self._manifest.phases
        steps = 0
        lines = list(self._run_dir.read_metrics())
        for phase in phases:
            if is_there(self._run_dir.ledger(phase.name)):
                self.ledger(phase.name, steps)
            before, after = (self._run_dir.samples_file(phase.name, when) for when in ("before", "after"))
            self.samples(before, steps)
            answered = self._run_dir.answered_steps(phase.name)
            for line in (line for line in lines if line["phase"] == phase.name):
                while answered and answered[0] <= line["step"]:
                    step = answered.pop(0)
                    self.samples(self._run_dir.samples_file(phase.name, step), steps + step)
                self.log(line)
            if phase.name in done:
                steps += done[phase.name]["steps"]
                self.samples(after, steps)

    def _document(self, name: str, step: int, text: str) -> None:
        if name not in self._sent:
            self._sent.add(name)
            self._each("document", name, step, text)

    def _each(self, method: str, *given: Any) -> None:
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: getattr(tracker, method)(*given))  # type: ignore[misc]

    def _guarded(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            self._open.pop(name, None)
            what = " ".join(redact(f"{type(error).__name__}: {error}").split())
            told = f"The tracker {name} failed and is left alone; training goes on, and metrics.jsonl has everything."
            with suppress(OSError):  # a full disk has no room for the log either
                self._say(f"[yellow]{told} {escape(what[:_LONGEST])}[/yellow]")
