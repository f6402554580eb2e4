"""The run directory: every file name of a run, and what its small files hold.

It is the only hand-over between training and everything after it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftlab import __version__
from ftlab.errors import RunDirError
from ftlab.rundir import lock
from ftlab.rundir.checkpoints import weights
from ftlab.rundir.documents import read_yaml
from ftlab.rundir.names import FINAL, LATEST, METRICS, OUTPUTS
from ftlab.rundir.phase_files import PhaseFiles
from ftlab.rundir.plan import Plan
from ftlab.rundir.records import read_last_line, read_last_lines, read_ledger, read_lines, read_manifest

_START_AGAIN = "Another run.name, or run.if_exists=new, starts again."
_SHOWN = 5  # mistakes of a run.yaml


class RunDir:
    """Paths and small files of one run. Construct with :meth:`open`, or with :func:`ftlab.rundir.claim.claim`."""

    def __init__(self, path: Path):
        self.path = path
        self.run_yaml = path / "run.yaml"
        self.manifest_json = path / "manifest.json"
        self.metrics = path / METRICS
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        self.log = path / "log.txt"
        self.final = path / FINAL
        self.lock = path / lock.FILE

    @property
    def has_begun(self) -> bool:
        """Whether anything was measured or trained here. Weights tell it too, where the metrics are gone."""
        return self.metrics.exists() or any(weights(self.path / "phases")) or self.final.is_dir()

    @property
    def is_locked(self) -> bool:
        """Whether a process is at work here; also where that cannot be found out."""
        return lock.is_held(self.path)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``; a last line that a crash cut short is skipped.

        :raises RunDirError: it cannot be read, or a line is not what a run writes.
        """
        return read_lines(self.metrics)

    def logged_by_phase(self) -> dict[str, list[dict[str, Any]]]:
        """The lines of each phase."""
        lines: dict[str, list[dict[str, Any]]] = {}
        for line in self.read_metrics():
            lines.setdefault(line["phase"], []).append(line)
        return lines

    def read_last_metrics(self) -> dict[str, Any] | None:
        """Return the last whole line of ``metrics.jsonl``, without reading what is before."""
        return read_last_line(self.metrics)

    def read_latest_metrics(self) -> Iterator[dict[str, Any]]:
        """The last hundreds of lines of ``metrics.jsonl``, the newest first."""
        return read_last_lines(self.metrics)

    def samples_file(self, phase: str, when: str | int) -> Path:
        """The file of generations and measures. :param when: ``before`` or ``after`` training, or after a step."""
        return self.samples / f"{phase}-{when if isinstance(when, str) else f'step-{when}'}.json"

    def answered_steps(self, phase: str) -> list[int]:
        """Return the steps after which a phase answered prompts."""
        of_phase = re.compile(rf"{re.escape(phase)}-step-([0-9]+)\.json")
        files = self.samples.iterdir() if self.samples.is_dir() else ()
        return sorted(int(found[1]) for path in files if (found := of_phase.fullmatch(path.name)))

    def rank_log(self, rank: int) -> Path:
        """What a process of several prints that is not the first."""
        return self.path / "ranks" / f"rank-{rank}.txt"

    def heartbeat(self, rank: int) -> Path:
        """How far a process of several has come."""
        return self.path / "ranks" / f"rank-{rank}.json"

    def stacks(self, rank: int) -> Path:
        """Where the threads of a process were when the run hung."""
        return self.path / "ranks" / f"rank-{rank}-stacks.txt"

    @property
    def shared_mark(self) -> Path:
        """What the first of several machines writes, for the others to see that the directory is the same."""
        return self.path / "ranks" / "shared.txt"

    @property
    def prepared(self) -> Path:
        """The cache of prepared rows that several processes read, where the user has given none."""
        return self.path / "ranks" / "cache"

    @property
    def trackers_json(self) -> Path:
        """By what the trackers know the run."""
        return self.path / "trackers.json"

    def git_diff(self, start: int) -> Path:
        """The changes that the commit of a start does not have. :param start: counted from 1."""
        return self.path / ("git.diff" if start == 1 else f"git-{start}.diff")

    def ledger(self, phase: str) -> Path:
        return self.path / "data" / f"{phase}.json"

    def data_files(self, phase: str) -> dict[str, str] | None:
        """The files that a phase began with, each with its hash; None where it has not come to its data."""
        ledger = read_ledger(self.ledger(phase))
        return None if ledger is None else ledger["sha256"]

    def phase(self, folder: str) -> Path:
        return self.path / "phases" / folder

    def phase_files(self, folder: str) -> PhaseFiles:
        """:param folder: the name of a phase's folder, as the plan has it."""
        return PhaseFiles(self.phase(folder), self.path / "phases", self.samples, self.metrics)

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """:raises RunDirError: ``path`` is no run directory."""
        if path.name == LATEST and path.is_symlink():
            path = path.parent / path.readlink()  # which will be another run's soon
        run_dir = cls(path)
        if not run_dir.run_yaml.is_file():
            raise RunDirError(
                f"{path} is no run directory: it has no {run_dir.run_yaml.name}. "
                "Runs are in outputs/ of the folder that they were started in; ftlab ls lists them."
            )
        return run_dir

    def link_latest(self) -> None:
        """Let ``outputs/latest`` point here. A file system without links has none."""
        link, target = self._latest()
        if link.exists() and not link.is_symlink():
            return  # somebody's own
        temporary = link.with_name(f".{LATEST}.{os.getpid()}.tmp")
        try:
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(link)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _latest(self) -> tuple[Path, Path]:
        """The link, and where it leads when it leads here. A job of a sweep lies one folder deeper than other runs."""
        path = self.path.absolute()
        outputs = next((parent for parent in path.parents[:2] if parent.name == OUTPUTS), path.parent)
        return self.path.parents[0 if outputs == path.parent else 1] / LATEST, path.relative_to(outputs)

    @property
    def is_below_outputs(self) -> bool:
        """Whether the run lies in ``outputs/``, or in the folder of a sweep there."""
        return self._latest()[0].absolute().parent.name == OUTPUTS

    def remove(self) -> None:
        """Remove the directory, and ``outputs/latest`` if it points here."""
        link, target = self._latest()
        if link.is_symlink() and link.readlink() == target:
            link.unlink()
        folder = self.path.resolve()
        hidden = folder.with_name(f".{folder.name}.{os.getpid()}.removed")
        folder.rename(hidden)
        shutil.rmtree(hidden)

    def plan(self) -> Plan:
        """:raises RunDirError: run.yaml is damaged, or another version's."""
        values = read_yaml(self.run_yaml, _START_AGAIN)
        try:
            return Plan.model_validate(values)
        except ValidationError as error:
            wrong = [f"  - {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:_SHOWN]]
            more = [f"  - and {left} more"] if (left := error.error_count() - _SHOWN) > 0 else []
            try:
                wrote = self.manifest().get("ftlab", "an unknown version")
            except RunDirError:  # the one thing that is told is enough
                wrote = "an unknown version"
            own = __version__
            raise RunDirError(
                "\n".join(
                    [f"{self.run_yaml} is no config of this ftlab, {own} (it was written by {wrote}):", *wrong, *more]
                )
                + f"\nContinue it with the ftlab that wrote it. {_START_AGAIN}"
            ) from None

    def manifest(self) -> dict[str, Any]:
        """Return the manifest; empty where there is none yet.

        :raises RunDirError: it is damaged.
        """
        return read_manifest(self.manifest_json)

    def start_folder_hint(self) -> str:
        """Return a line for a message about a missing path: the folder that relative paths started from."""
        folder = self.manifest().get("folder")
        return f"\nThe run was started in {folder}." if folder not in (None, str(Path.cwd())) else ""
