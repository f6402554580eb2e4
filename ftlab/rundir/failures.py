"""Why runs failed that share a process: for whoever has started it, and cannot tell them apart by its exit code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ftlab.base.redaction import mask_secrets
from ftlab.rundir.files import write_atomic


@dataclass(frozen=True)
class Failures:
    """A file for each run that failed. :param folder: of them; it need not be there."""

    folder: Path

    def write(self, run_dir: Path, why: str) -> None:
        write_atomic(self._file(run_dir), mask_secrets(why))

    def read(self, run_dir: Path) -> str | None:
        """None where the run has not failed of itself."""
        file = self._file(run_dir)
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _file(self, run_dir: Path) -> Path:
        return self.folder / hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:16]
