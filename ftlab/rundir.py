"""The run directory: every file name of a run, atomic writes, and the manifest.

It is the only hand-over between training and everything after it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ftlab.errors import RunDirError
from ftlab.plan import Plan
from ftlab.schema import OPERATIONAL, Run

CHECKPOINT_MANIFEST = "checkpoint.json"
# Access tokens of the hubs and services that people use here.
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:hf_|ghp_)[A-Za-z0-9]{20,}|(?:glpat-|wandb_)[\w-]{16,}|sk-(?=[\w-]*\d)[\w-]{20,})"
)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or trained here."""
        return self.metrics.is_file()

    def ledger(self, phase: str) -> Path:
        return self.path / "data" / f"{phase}.json"

    def phase(self, folder: str) -> Path:
        return self.path / "phases" / folder

    @classmethod
    def create(cls, plan: Plan) -> RunDir:
        """Make the directory of a new run, or find the one that ``plan`` continues.

        :raises RunDirError: it cannot be written, is somebody else's, or holds another run.
        """
        keys = plan.phases[0].config.run
        if keys.dir is not None:
            path = Path(keys.dir)
        elif keys.name is not None:
            path = Path("outputs") / keys.name
        else:
            path = _unused(Path("outputs") / f"{plan.title}-{time.strftime('%Y%m%d-%H%M%S')}")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if keys.if_exists == "refuse":
                raise RunDirError(f"{path} exists. run.if_exists=resume continues it, run.if_exists=new makes another.")
            if keys.if_exists == "resume":
                run_dir = cls.open(path)
                if run_dir.has_begun:
                    run_dir._check_identity(plan)
                if run_dir.manifest().get("status") != "finished":
                    write_atomic(run_dir.run_yaml, _yaml(plan))  # what may differ is taken from the newer command
                return run_dir
            path = _unused(path)
        run_dir = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_atomic(run_dir.run_yaml, _yaml(plan))
        except OSError as error:
            raise RunDirError(
                f"run.dir={path} cannot be written: {error.strerror}. Give another with run.dir=FOLDER."
            ) from None
        return run_dir

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """:raises RunDirError: ``path`` is no run directory."""
        run_dir = cls(path)
        if not run_dir.run_yaml.is_file():
            raise RunDirError(
                f"{path} is no run directory: it has no {run_dir.run_yaml.name}. "
                "Give an empty or new folder to start a run, or an existing run to continue it."
            )
        return run_dir

    def plan(self) -> Plan:
        return Plan.model_validate(yaml.safe_load(self.run_yaml.read_text(encoding="utf-8")))

    def manifest(self) -> dict[str, Any]:
        return json.loads(self.manifest_json.read_text()) if self.manifest_json.is_file() else {}

    def update_manifest(self, **values: Any) -> None:
        text = json.dumps({**self.manifest(), **values}, indent=2, ensure_ascii=False)
        write_atomic(self.manifest_json, _SECRET.sub("<redacted>", text) + "\n")

    def _check_identity(self, plan: Plan) -> None:
        plan = Plan.model_validate(yaml.safe_load(_yaml(plan)))  # as it would be written: without secrets
        ours = {phase.name: dict(identity(phase.config)) for phase in self.plan().phases}
        theirs = {phase.name: dict(identity(phase.config)) for phase in plan.phases}
        different = [
            f"  - {key}: {ours[name].get(key)} there, {value} here"
            for name in ours.keys() & theirs.keys()
            for key, value in theirs[name].items()
            if ours[name].get(key) != value
        ]
        if ours.keys() != theirs.keys() or different:
            raise RunDirError(
                "\n".join([f"{self.path} holds another run:", *(different or [f"  - phases: {', '.join(ours)} there"])])
                + "\nrun.if_exists=new starts beside it; another run.name or run.dir starts elsewhere."
            )


def identity(run: Run) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what a continued run must share with its start."""
    yield from _identity(run.model_dump(mode="json"), Run.model_json_schema(), Run.model_json_schema()["$defs"], "")


def _identity(values: Any, schema: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        field = schema.get("properties", {}).get(key, {})
        if field.get(OPERATIONAL):
            continue
        target = defs.get(field.get("$ref", "").rsplit("/", 1)[-1])
        if target is not None and isinstance(value, dict):
            yield from _identity(value, target, defs, f"{prefix}{key}.")
        elif isinstance(value, dict):
            yield from ((f"{prefix}{key}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield f"{prefix}{key}", value


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of a phase, newest step first, whole or not."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: -int(path.name.rpartition("-")[2]))


def seal(checkpoint: Path) -> None:
    """Write the manifest of hashes that makes a checkpoint count."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKPOINT_MANIFEST)
    hashes = {str(path.relative_to(checkpoint)): sha256(path) for path in files}
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    write_atomic(checkpoint / CHECKPOINT_MANIFEST, json.dumps({"sha256": hashes}, indent=2) + "\n")


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there with the hash of its manifest."""
    manifest = checkpoint / CHECKPOINT_MANIFEST
    if not manifest.is_file():
        return False
    hashes = json.loads(manifest.read_text())["sha256"]
    return all((checkpoint / name).is_file() and sha256(checkpoint / name) == value for name, value in hashes.items())


def _yaml(plan: Plan) -> str:
    text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return _SECRET.sub("<redacted>", text)


def _unused(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
