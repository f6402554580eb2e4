"""The small files of a package: names, the list of hashes, metadata.json and check.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from ftlab.errors import PackageError
from ftlab.rundir.files import sha256
from ftlab.use.package.archive import files_below, name_problem

SUMS = "SHA256SUMS"
METADATA = "metadata.json"
CHECK = "check.json"
USAGE = "USAGE.md"
REQUIREMENTS = "requirements.txt"
SCRIPT = "generate.py"
MODELFILE = "Modelfile"
LICENCES = "licenses"  # the folder of the base's
VERSION = 1  # of what metadata.json is
_SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class _Base(BaseModel):
    name: str
    path: str | None
    revision: str | None
    sha256: dict[str, str]


class _Of(BaseModel):
    stage: str


class Metadata(BaseModel):
    """What a reader needs of metadata.json; there is more for people."""

    package: int
    name: str
    form: Literal["peft", "hf", "gguf"]
    dtype: str
    quantization: dict[str, Any] | None
    base: _Base
    run: _Of


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_sums(folder: Path) -> None:
    """The hash of every file, as ``sha256sum -c`` reads them."""
    names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(text: bytes, where: str) -> dict[str, str]:
    """The hash of each file by its name. :raises PackageError: it is no such list, or names files of elsewhere."""
    found: dict[str, str] = {}
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise PackageError(f"{where}: {SUMS} is no text in UTF-8.") from None
    for number, line in enumerate(lines, 1):
        parts = _SUM.fullmatch(line)
        if parts is None:
            raise PackageError(f"{where}: line {number} of {SUMS} is no hash and name: {line[:80]!r}.")
        if problem := name_problem(parts[2]):
            raise PackageError(f"{where}: {SUMS} names {parts[2][:100]!r}, which {problem}.")
        if parts[2] in found:
            raise PackageError(f"{where}: {SUMS} names {parts[2]!r} twice.")
        found[parts[2]] = parts[1]
    return found


def read_metadata(text: bytes, where: str) -> Metadata:
    """:raises PackageError: it is no metadata.json that this version reads."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise PackageError(f"{where}: {METADATA} is no JSON, or only a part of it.") from None
    version = values.get("package") if isinstance(values, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise PackageError(f"{where} was made by a later ftlab ({METADATA} has package {version}): update ftlab.")
    try:
        return Metadata.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise PackageError(f"{where}: {METADATA}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
