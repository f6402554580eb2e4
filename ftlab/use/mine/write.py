"""What a mining leaves: the rows and their validation split, the registry, and the account of what was left out."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ftlab.base.redaction import secret_kind
from ftlab.rundir.files import write_atomic
from ftlab.use.mine.sieve import SECRET

REPORT, LEFT_OUT, REGISTRY = "mining.json", "left_out.jsonl", "dataset_info.yaml"


@dataclass
class Rows:
    """The rows of one set, on disk from the first on.

    :param seen: files, commits or series there were. :param kept: of each kind of row. :param left_out: how many
        are no row, by reason. :param parts_left_out: files left out of the diffs of rows that are kept, by reason.
    """

    name: str
    folder: Path
    seen: int = 0
    train: int = 0
    validation: int = 0
    size: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    parts_left_out: Counter[str] = field(default_factory=Counter)
    _hashes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._all = (self.folder / f"{self.name}.all").open("w+b")

    def add(self, text: str, kind: str) -> None:
        line = json.dumps({"training_content": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._all.write(line + b"\n")
        self.size += len(line) + 1
        self._hashes.append(int.from_bytes(hashlib.sha256(line).digest()[:8], "big"))
        self.kept[kind] += 1

    def split(self, fraction: float) -> None:
        """Write the files. Rows go to validation by their content, so that they stay there as the repository grows:
        those with a hash in the lowest ``fraction`` of all; where there is none, the lowest."""
        chosen = {place for place, hash_ in enumerate(self._hashes) if hash_ < fraction * 2**64}
        if not chosen and fraction and len(self._hashes) > 1:
            chosen = {self._hashes.index(min(self._hashes))}
        self._all.seek(0)
        with (self.folder / f"{self.name}.jsonl").open("wb") as train, self._validation().open("wb") as validation:
            for place, line in enumerate(self._all):
                (validation if place in chosen else train).write(line)
            for file in (train, validation):
                file.flush()
                os.fsync(file.fileno())
        self.validation, self.train = len(chosen), len(self._hashes) - len(chosen)
        self._all.close()
        (self.folder / f"{self.name}.all").unlink()

    def _validation(self) -> Path:
        return self.folder / f"{self.name}.validation.jsonl"

    @property
    def facts(self) -> dict[str, object]:
        facts = {"seen": self.seen, "kept": _sorted(self.kept), "left_out": _sorted(self.left_out)}
        return {
            **facts,
            "files_left_out_of_kept_diffs": _sorted(self.parts_left_out),
            "rows": {"train": self.train, "validation": self.validation},
            "bytes": self.size,
        }


class Account:
    """Every thing that was left out, in a file as it happens; secrets by their kind."""

    def __init__(self, folder: Path):
        self._file = (folder / LEFT_OUT).open("w", encoding="utf-8")
        self.secrets: list[dict[str, str]] = []

    def leave_out(self, rows: Rows, what: str, reason: str) -> None:
        """:param what: a path, or a commit."""
        rows.left_out[reason] += 1
        self._write(rows, what, reason)

    def leave_out_part(self, rows: Rows, what: str, path: str, reason: str) -> None:
        """A file of a diff that is kept without it."""
        rows.parts_left_out[reason] += 1
        self._write(rows, what, reason, file=path)

    def leave_out_secret(self, rows: Rows, what: str, path: str, kind: str) -> None:
        """:param path: the file of a commit that holds it, or "its message"."""
        self.leave_out(rows, what, SECRET)
        where = {"file": _safe(path)} if path != what else {}
        self.secrets.append({"set": rows.name, "in": _safe(what), **where, "kind": kind})

    def _write(self, rows: Rows, what: str, reason: str, **more: str) -> None:
        facts = {"set": rows.name, "what": what, **more, "reason": reason}
        self._file.write(json.dumps({key: _safe(value) for key, value in facts.items()}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def write_report(folder: Path, sets: Sequence[Rows], account: Account, facts: dict[str, object]) -> None:
    """The report, and a registry that has the sets by the names that phase=codebase asks for."""
    kinds = _sorted(Counter(secret["kind"] for secret in account.secrets))
    report = {
        **facts,
        "sets": {rows.name: rows.facts for rows in sets},
        "secrets": {"kinds": kinds, "found": account.secrets},
    }
    entries = {
        rows.name: {
            "format": "text",
            "files": {"train": f"{rows.name}.jsonl"}
            | ({"validation": f"{rows.name}.validation.jsonl"} if rows.validation else {}),
        }
        for rows in sets
        if rows.train
    }
    text = "# Mined by ftlab mine; mining.json says from what.\n" + yaml.safe_dump(entries, sort_keys=False)
    write_atomic(folder / REGISTRY, text)
    write_atomic(folder / REPORT, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def files_of(sets: Sequence[str]) -> list[str]:
    """Return the names of the files of an out folder, the report last: where it is, all are."""
    rows = [name for set_ in sets for name in (f"{set_}.jsonl", f"{set_}.validation.jsonl")]
    return [*rows, LEFT_OUT, REGISTRY, REPORT]


def _safe(text: str) -> str:
    """A name, unless it holds a secret itself."""
    return "<a name that looks like a secret>" if secret_kind(text) else text


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
