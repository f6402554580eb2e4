"""The run directory: every file name of a run, atomic writes, and the manifest.

It is the only hand-over between training and everything after it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ftlab import __version__
from ftlab.base.redaction import masked
from ftlab.errors import RunDirError
from ftlab.rundir import lock
from ftlab.rundir.checkpoints import MERGED, weights
from ftlab.rundir.documents import json_lines, last_json_line, read_json, read_yaml
from ftlab.rundir.files import write_atomic
from ftlab.rundir.identity import identity_of_phase
from ftlab.rundir.lock import LockHeldError, RunLock
from ftlab.rundir.names import LATEST
from ftlab.rundir.plan import Phase, Plan

_START_AGAIN = "Another run.name, or run.if_exists=new, starts again."
_WITHOUT_LEDGER = "Put a copy back, or remove it: then a resume cannot tell whether the data has changed since."
_WITHOUT_MANIFEST = "Put a copy back; without it, a run goes on from the checkpoints that its phases have."
_SHOWN = 5  # mistakes of a run.yaml


class RunDir:
    """Paths and small files of one run. Construct with :meth:`claim` or :meth:`open`."""

    def __init__(self, path: Path):
        self.path = path
        self.run_yaml = path / "run.yaml"
        self.manifest_json = path / "manifest.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"
        self.final = path / "final"
        self.lock = path / lock.FILE

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or trained here. Weights tell it too, where the metrics are gone."""
        return self.metrics.exists() or any(weights(self.path / "phases")) or self.final.is_dir()

    @property
    def is_held(self) -> bool:
        """Whether a process is at work here; also where that cannot be found out."""
        return lock.is_held(self.path)

    def logged(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; what a crash left of a last one is passed over."""
        yield from json_lines(self.metrics) if self.metrics.exists() else ()

    def logged_by_phase(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of each phase.

        :raises RunDirError: one of them names no phase.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self.logged():
            if "phase" not in line or "step" not in line:
                raise RunDirError(f"{self.metrics} has a line without phase or step: {json.dumps(line)[:60]}")
            found.setdefault(line["phase"], []).append(line)
        return found

    def last_logged(self) -> dict[str, Any] | None:
        """The last whole line of ``metrics.jsonl``, without reading what is before."""
        return last_json_line(self.metrics) if self.metrics.exists() else None

    def samples_file(self, phase: str, when: str | int) -> Path:
        """What was measured and answered. :param when: ``before`` or ``after`` training, or after a step."""
        return self.samples / f"{phase}-{when if isinstance(when, str) else f'step-{when}'}.json"

    def answered(self, phase: str) -> list[int]:
        """Steps after which a phase answered prompts."""
        of_phase = re.compile(rf"{re.escape(phase)}-step-([0-9]+)\.json")
        files = self.samples.iterdir() if self.samples.is_dir() else ()
        return sorted(int(found[1]) for path in files if (found := of_phase.fullmatch(path.name)))

    def ledger(self, phase: str) -> Path:
        return self.path / "data" / f"{phase}.json"

    def data_files(self, phase: str) -> dict[str, str] | None:
        """The files that a phase began with, each with its hash; None where it has not come to its data."""
        ledger = self.ledger(phase)
        if not ledger.exists():
            return None
        files = read_json(ledger, _WITHOUT_LEDGER).get("sha256")
        if not isinstance(files, dict):
            raise RunDirError(f"{ledger} does not say which files were read: it has no sha256. {_WITHOUT_LEDGER}")
        return files

    def phase(self, folder: str) -> Path:
        return self.path / "phases" / folder

    @classmethod
    def create(cls, plan: Plan) -> RunDir:
        """What :meth:`claim` gives, without the lock: to write a run down, not to work in it."""
        with cls.claim(plan) as run_dir:
            return run_dir

    @classmethod
    @contextmanager
    def claim(cls, plan: Plan) -> Iterator[RunDir]:
        """Make the directory of a new run, or find the one that ``plan`` continues, and keep others from writing there
        until the context ends. Nothing is written before that is so.

        :raises RunDirError: it cannot be written, is somebody else's, holds another run or one that works just now.
        """
        keys, text = plan.phases[0].config.run, _checked_yaml(plan)
        if keys.dir is None and keys.name == LATEST:
            raise RunDirError(f"outputs/{LATEST} is a link to the run that was started last. Choose another run.name.")
        own = f"{plan.title}-{time.strftime('%Y%m%d-%H%M%S')}"
        path = Path("outputs") / (keys.name or own) if keys.dir is None else Path(keys.dir)
        with ExitStack() as held:
            if keys.if_exists == "new" or (keys.dir is None and keys.name is None):
                run_dir = cls._lock_unused(path, held)
            else:
                run_dir = cls._at(path, keys.if_exists == "refuse")
                held.enter_context(RunLock(run_dir.path, make=True))
                run_dir = cls._at(run_dir.path, keys.if_exists == "refuse")  # somebody may just have been there
            if run_dir.has_begun:
                run_dir._check_identity(plan)
            if run_dir.manifest().get("status") != "finished":
                run_dir._write(text)  # what may differ is taken from the newer command
            yield run_dir

    @classmethod
    def _at(cls, path: Path, refuse: bool) -> RunDir:
        """What is free for a run, or holds one. :param refuse: whether one that is there is not wanted."""
        run_dir = cls(path)
        if not run_dir._is_taken():
            return run_dir
        if refuse:
            raise RunDirError(f"{path} exists. run.if_exists=resume continues it, run.if_exists=new makes another.")
        return cls.open(path)

    @classmethod
    def _lock_unused(cls, path: Path, held: ExitStack) -> RunDir:
        """The first of ``path``, ``path-2``, ... that is free. Of those who want it at once, one gets its lock."""
        for number in itertools.count(1):
            run_dir = cls(path if number == 1 else path.with_name(f"{path.name}-{number}"))
            if run_dir._is_taken():
                continue
            try:
                held.enter_context(RunLock(run_dir.path, make=True))
            except LockHeldError:
                continue
            if not run_dir._is_taken():
                break
            held.close()
        return run_dir

    def _is_taken(self) -> bool:
        """Whether something is here. A first start that was killed while it wrote run.yaml has left nothing."""
        if not self.path.is_dir():
            return self.path.exists()
        return bool(set(self.path.iterdir()) - {self.lock, *self.path.glob(f".{self.run_yaml.name}.*.tmp")})

    def _write(self, text: str) -> None:
        try:
            write_atomic(self.run_yaml, text)
        except OSError as error:
            raise RunDirError(
                f"run.dir={self.path} cannot be written: {error.strerror}. Give another with run.dir=FOLDER."
            ) from None

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """:raises RunDirError: ``path`` is no run directory."""
        if path.name == LATEST and path.is_symlink():
            path = path.parent / path.readlink()  # which will be another run's soon
        run_dir = cls(path)
        if not run_dir.run_yaml.is_file():
            raise RunDirError(
                f"{path} is no run directory: it has no {run_dir.run_yaml.name}. "
                "Give an empty or new folder to start a run, or an existing run to continue it."
            )
        return run_dir

    def be_latest(self) -> None:
        """Let ``outputs/latest`` point here. A file system without links has none."""
        link = self.path.parent / LATEST
        if link.exists() and not link.is_symlink():
            return  # somebody's own
        temporary = link.with_name(f".{LATEST}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(self.path.name)
            temporary.replace(link)
        except OSError:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Everything, and ``outputs/latest`` if it points here."""
        link = self.path.parent / LATEST
        if link.is_symlink() and link.readlink() == Path(self.path.name):
            link.unlink()
        shutil.rmtree(self.path)

    def plan(self) -> Plan:
        """:raises RunDirError: run.yaml is damaged, or another version's."""
        values = read_yaml(self.run_yaml, _START_AGAIN)
        try:
            return Plan.model_validate(values)
        except ValidationError as error:
            wrong = [f"  - {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_SHOWN]]
            more = [f"  - and {left} more"] if (left := error.error_count() - _SHOWN) > 0 else []
            wrote, own = self.manifest().get("ftlab", "an unknown version"), __version__
            raise RunDirError(
                "\n".join(
                    [f"{self.run_yaml} is no config of this ftlab, {own} (it was written by {wrote}):", *wrong, *more]
                )
                + f"\nContinue it with the ftlab that wrote it. {_START_AGAIN}"
            ) from None

    def manifest(self) -> dict[str, Any]:
        """Empty where there is none yet.

        :raises RunDirError: it is damaged.
        """
        return read_json(self.manifest_json, _WITHOUT_MANIFEST) if self.manifest_json.exists() else {}

    def started_elsewhere(self) -> str:
        """A line for a message about a path that is not there: where relative ones started from."""
        folder = self.manifest().get("folder")
        return f"\nThe run was started in {folder}." if folder not in (None, str(Path.cwd())) else ""

    def choose_the_rest(self) -> None:
        """Where the phases that ``run.phases`` chose are done and others are left, those are chosen."""
        plan, done = self.plan(), self.manifest().get("phases", {})
        chosen = plan.phases[0].config.run.phases
        if chosen is None or not {*chosen} <= {*done} or all(phase.name in done for phase in plan.phases):
            return
        phases = []
        for phase in plan.phases:
            keys = phase.config.run.model_copy(update={"phases": None})
            phases.append(phase.model_copy(update={"config": phase.config.model_copy(update={"run": keys})}))
        self._write(_checked_yaml(plan.model_copy(update={"phases": tuple(phases)})))

    def update_manifest(self, **values: Any) -> None:
        text = json.dumps({**self.manifest(), **values}, indent=2, ensure_ascii=False)
        write_atomic(self.manifest_json, masked(text) + "\n")

    def _check_identity(self, plan: Plan) -> None:
        plan = Plan.model_validate(yaml.safe_load(_yaml(plan)))  # as it would be written: without secrets
        here = self.plan()
        ours, theirs = ({phase.name: identity_of_phase(phase) for phase in p.phases} for p in (here, plan))
        # Nothing is lost of a phase of a curriculum that has no weights: it may be mended, and then begins anew. So
        # may one that is a run of its own, and was not even measured.
        may_change = len(here.phases) > 1 or not (self.metrics.is_file() or self.final.is_dir())
        fresh = [phase for phase in here.phases if may_change and not self._is_trained(phase)]
        different = [
            f"  - {f'phases.{name}.' if len(theirs) > 1 else ''}{key}: {ours[name].get(key)} there, {value} here"
            for name in ours.keys() & theirs.keys() - {phase.name for phase in fresh}
            for key, value in theirs[name].items()
            if ours[name].get(key) != value
        ]
        if [*ours] != [*theirs] or different:
            raise RunDirError(
                "\n".join([f"{self.path} holds another run:", *(different or [f"  - phases: {', '.join(ours)} there"])])
                + "\nrun.if_exists=new starts beside it; another run.name or run.dir starts elsewhere."
            )
        for phase in fresh:
            if ours[phase.name] != theirs[phase.name]:
                self._forget(phase)

    def _is_trained(self, phase: Phase) -> bool:
        """Whether the phase has weights, if only those of a torn checkpoint. What it merged to begin with are none."""
        folder = self.phase(phase.folder)
        own = (path for path in weights(folder) if path.relative_to(folder).parts[0] not in MERGED)
        return phase.name in self.manifest().get("phases", {}) or any(own)

    def _forget(self, phase: Phase) -> None:
        """Remove what an untrained phase left that begins anew with other values: data, a merged base, measures."""
        shutil.rmtree(self.phase(phase.folder), ignore_errors=True)
        self.ledger(phase.name).unlink(missing_ok=True)
        times: list[str | int] = ["before", "after", *self.answered(phase.name)]
        for when in times:
            self.samples_file(phase.name, when).unlink(missing_ok=True)


def _checked_yaml(plan: Plan) -> str:
    """:raises RunDirError: it cannot be written down without a secret that the run would need."""
    text = _yaml(plan)
    for ours, written in zip(plan.phases, Plan.model_validate(yaml.safe_load(text)).phases):
        kept = identity_of_phase(written)
        for key, value in identity_of_phase(ours).items():
            if kept[key] != value:
                raise RunDirError(
                    f"{key} holds what looks like a secret: run.yaml would have {kept[key]!r}, and a run reads its "
                    "config from there. Secrets come from the environment."
                )
    return text


def _yaml(plan: Plan) -> str:
    text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return masked(text)
