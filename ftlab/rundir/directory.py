"""The run directory: every file name of a run, atomic writes, and the manifest.

It is the only hand-over between training and everything after it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from ftlab import __version__
from ftlab.base.redaction import mask_secrets
from ftlab.errors import RunDirError
from ftlab.rundir.checkpoints import checkpoints
from ftlab.rundir.files import write_atomic
from ftlab.rundir.identity import identity_of_phase
from ftlab.rundir.names import LATEST
from ftlab.rundir.plan import Phase, Plan

_START_AGAIN = "Another run.name, or run.if_exists=new, starts again."
_WITHOUT_MANIFEST = "Put a copy back; without it, a run goes on from the checkpoints that its phases have."
_SHOWN = 5  # mistakes of a run.yaml
_TAIL = 1 << 16  # bytes that hold the last line of the metrics


class RunDir:
    """Paths and small files of one run. Construct with :meth:`create` or :meth:`open`."""

    def __init__(self, path: Path):
        self.path = path
        self.run_yaml = path / "run.yaml"
        self.manifest_json = path / "manifest.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"
        self.final = path / "final"
        self.lock = path / ".lock"

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or trained here."""
        return self.metrics.is_file()

    @property
    def is_held(self) -> bool:
        """Whether a process is at work here; also where that cannot be found out."""
        try:
            with self.lock.open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not meet each other
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def logged(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``; what a crash left of a last one is passed over."""
        if not self.metrics.is_file():
            return
        with self.metrics.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    if line.endswith("\n"):
                        raise RunDirError(f"{self.metrics}:{number} is no JSON: {line[:60].rstrip()}") from None

    def last_logged(self) -> dict[str, Any] | None:
        """The last whole line of ``metrics.jsonl``, without reading what is before."""
        if not self.metrics.is_file():
            return None
        with self.metrics.open("rb") as file:
            file.seek(max(0, self.metrics.stat().st_size - _TAIL))
            *_, last, _ = [b"", *file.read().split(b"\n")]
        try:
            return json.loads(last) if last else None
        except ValueError:
            start = last[:60].decode(errors="replace")
            raise RunDirError(f"{self.metrics}: its last line is no JSON: {start}") from None

    def samples_file(self, phase: str, when: str | int) -> Path:
        """What was measured and answered. :param when: ``before`` or ``after`` training, or after a step."""
        return self.samples / f"{phase}-{when if isinstance(when, str) else f'step-{when}'}.json"

    def answered(self, phase: str) -> list[int]:
        """Steps after which a phase answered prompts."""
        files = self.samples.glob(f"{phase}-step-*.json")
        return sorted(int(path.stem.rpartition("-")[2]) for path in files if path.stem.rpartition("-")[2].isdecimal())

    def ledger(self, phase: str) -> Path:
        return self.path / "data" / f"{phase}.json"

    def data_files(self, phase: str) -> dict[str, str] | None:
        """The files that a phase began with, each with its hash; None where it has not come to its data."""
        ledger = self.ledger(phase)
        found = json.loads(ledger.read_text(encoding="utf-8"))["sha256"] if ledger.is_file() else None
        return cast(dict[str, str] | None, found)

    def phase(self, folder: str) -> Path:
        return self.path / "phases" / folder

    @classmethod
    def create(cls, plan: Plan) -> RunDir:
        """Make the directory of a new run, or find the one that ``plan`` continues.

        :raises RunDirError: it cannot be written, is somebody else's, or holds another run.
        """
        keys = plan.phases[0].config.run
        if keys.dir is None and keys.name == LATEST:
            raise RunDirError(f"outputs/{LATEST} is a link to the run that was started last. Choose another run.name.")
        if keys.dir is not None:
            path = Path(keys.dir)
        elif keys.name is not None:
            path = Path("outputs") / keys.name
        else:
            path = _unused(Path("outputs") / f"{plan.title}-{time.strftime('%Y%m%d-%H%M%S')}")
        run_dir = cls(path)
        if run_dir._is_taken():
            if keys.if_exists == "refuse":
                raise RunDirError(f"{path} exists. run.if_exists=resume continues it, run.if_exists=new makes another.")
            if keys.if_exists == "resume":
                run_dir = cls.open(path)
                if run_dir.has_begun:
                    run_dir._check_identity(plan)
                if run_dir.manifest().get("status") != "finished":
                    run_dir._write(plan)  # what may differ is taken from the newer command
                return run_dir
            run_dir = cls(_unused(path))
        run_dir._write(plan)
        return run_dir

    def _is_taken(self) -> bool:
        """Whether something is here. A first start that was killed while it wrote run.yaml has left nothing."""
        if not self.path.is_dir():
            return self.path.exists()
        return bool(set(self.path.iterdir()) - set(self.path.glob(f".{self.run_yaml.name}.*.tmp")))

    def _write(self, plan: Plan) -> None:
        """:raises RunDirError: it cannot be written, or not without a secret that the run would need."""
        text = _yaml(plan)
        for ours, written in zip(plan.phases, Plan.model_validate(yaml.safe_load(text)).phases):
            kept = identity_of_phase(written)
            for key, value in identity_of_phase(ours).items():
                if kept[key] != value:
                    raise RunDirError(
                        f"{key} holds what looks like a secret: run.yaml would have {kept[key]!r}, and a run reads its "
                        "config from there. Secrets come from the environment."
                    )
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
        try:
            return Plan.model_validate(yaml.safe_load(self.run_yaml.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunDirError(f"{self.run_yaml} is no YAML: {str(error).splitlines()[0]}. {_START_AGAIN}") from None
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
        if not self.manifest_json.is_file():
            return {}
        try:
            found = json.loads(self.manifest_json.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunDirError(f"{self.manifest_json} is no JSON: {error}. {_WITHOUT_MANIFEST}") from None
        if not isinstance(found, dict):
            raise RunDirError(f"{self.manifest_json} is no JSON object. {_WITHOUT_MANIFEST}")
        return found

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
        self._write(plan.model_copy(update={"phases": tuple(phases)}))

    def update_manifest(self, **values: Any) -> None:
        text = json.dumps({**self.manifest(), **values}, indent=2, ensure_ascii=False)
        write_atomic(self.manifest_json, mask_secrets(text) + "\n")

    def _check_identity(self, plan: Plan) -> None:
        plan = Plan.model_validate(yaml.safe_load(_yaml(plan)))  # as it would be written: without secrets
        here = self.plan()
        ours, theirs = ({phase.name: identity_of_phase(phase) for phase in p.phases} for p in (here, plan))
        # Nothing is lost of a phase of a curriculum that has no checkpoint: it may be mended, and then begins anew.
        fresh = [phase for phase in here.phases if len(here.phases) > 1 and not self._has_checkpoint(phase)]
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

    def _has_checkpoint(self, phase: Phase) -> bool:
        return phase.name in self.manifest().get("phases", {}) or bool(checkpoints(self.phase(phase.folder)))

    def _forget(self, phase: Phase) -> None:
        """What a phase left that is to begin anew with other values: data, a merged base, the measures before it.

        :raises RunDirError: another process is at work on it.
        """
        if self.is_held:
            raise RunDirError(f"Another process is at work in {self.path}. Wait for it to change phases.{phase.name}.")
        shutil.rmtree(self.phase(phase.folder), ignore_errors=True)
        self.ledger(phase.name).unlink(missing_ok=True)
        for file in self.samples.glob(f"{phase.name}-*.json"):
            file.unlink()


def _yaml(plan: Plan) -> str:
    text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return mask_secrets(text)


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
