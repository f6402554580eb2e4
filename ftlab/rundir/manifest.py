"""The manifest of a run, as the process that is at work on it keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ftlab.base.redaction import mask_secrets
from ftlab.rundir.directory import RunDir
from ftlab.rundir.files import write_atomic


class Manifest:
    """Read once, kept in memory, and written whole whenever something is recorded.

    It is for the holder of the run's lock, which is the only one that writes; everybody else reads with
    :meth:`RunDir.manifest`.

    :param writes: False in a process of a run of several that is not the first: what it records stays in memory.
    :ivar values: what ``manifest.json`` holds, secrets not yet redacted.
    """

    def __init__(self, run_dir: RunDir, writes: bool = True):
        self._path, self._writes = run_dir.manifest_json, writes
        self.values: dict[str, Any] = run_dir.manifest()

    @property
    def phases(self) -> Mapping[str, Any]:
        """The results of the phases that are done, by name."""
        return self.values.get("phases", {})

    def record(self, **values: Any) -> None:
        values = {**self.values, **values}
        if self._writes:
            text = json.dumps(values, indent=2, ensure_ascii=False)
            write_atomic(self._path, mask_secrets(text) + "\n")
        self.values = values  # a full disk takes no other status

    def record_item(self, key: str, name: str, value: Any) -> None:
        """Set one entry of a mapping in the manifest, as ``phases`` and ``data`` are."""
        self.record(**{key: {**self.values.get(key, {}), name: value}})
