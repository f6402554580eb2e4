"""Which files a data set is made of, and what its rows look like."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftlab.data.formats import COLUMNS
from ftlab.errors import ConfigError, DataError, Mistake, nearest
from ftlab.schema import Data, Format

# The formats whose rows a stage can train on.
STAGE_FORMATS: dict[str, tuple[str, ...]] = {
    "pt": ("text",),
    "sft": ("alpaca", "sharegpt", "messages", "instruction", "prompt_completion"),
    "rm": ("preference",),
    "dpo": ("preference",),
    "orpo": ("preference",),
    "kto": ("kto",),
    "ppo": ("prompts",),
    "grpo": ("prompts",),
}


class _Files(BaseModel):
    model_config = ConfigDict(extra="forbid")
    train: str
    validation: str | None = None
    golden: str | None = None


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    format: Format
    files: _Files
    columns: dict[str, str] = Field(default_factory=dict)
    make: str | None = None


@dataclass(frozen=True)
class Source:
    """:param files: by split: train, and validation and golden where there are files of their own."""

    name: str
    format: str
    files: dict[str, Path]
    columns: dict[str, str] = field(default_factory=dict)


def read_registry(path: Path) -> dict[str, _Entry]:
    """:raises DataError: the file is missing, is not YAML, or an entry is wrong."""
    if not path.is_file():
        raise DataError(f"data.registry={path}: no such file.")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise DataError(f"data.registry={path}: not UTF-8 at byte {error.start}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DataError(f"data.registry={path}: not YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise DataError(f"data.registry={path}: not YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(entries, dict):
        raise DataError(f"data.registry={path}: must map names to data sets, not be a {type(entries).__name__}.")
    return {str(name): _entry(path, str(name), entry) for name, entry in entries.items()}


def _entry(path: Path, name: str, entry: object) -> _Entry:
    if not isinstance(entry, dict):
        raise DataError(f"data.registry={path}: {name}: must have the keys format and files.")
    try:
        return _Entry.model_validate(entry)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in (name, *detail["loc"]))
        raise DataError(f"data.registry={path}: {where}: {detail['msg']}.") from None


def resolve(data: Data, stage: str) -> Source:
    """The source that the config names, checked to exist and to fit the stage.

    :raises ConfigError: an unknown name, or a format that the stage cannot train on.
    :raises DataError: a file that is missing or empty.
    """
    registry_file = Path(data.registry)
    registry = read_registry(registry_file)
    if data.path is not None:
        assert data.format is not None, "the schema asks for a format beside a path"
        name, format_, columns = Path(data.path).stem, str(data.format), data.columns
        files = {"train": Path(data.path)}
        make = None
    else:
        assert data.name is not None, "the schema asks for a name or a path"
        entry = registry.get(data.name)
        if entry is None:
            known = sorted(registry)
            reason = f"not in the registry {registry_file}. Known: {', '.join(known)}."
            raise ConfigError([Mistake("data.name", reason, data.name, nearest(data.name, known))])
        name, format_, columns = data.name, data.format or entry.format, {**entry.columns, **data.columns}
        declared = {split: file for split, file in entry.files.model_dump().items() if file is not None}
        files = {split: registry_file.parent / file for split, file in declared.items()}
        make = entry.make
    for split, chosen in (("validation", data.split.validation), ("golden", data.split.golden)):
        if chosen == "none":
            files.pop(split, None)
        elif chosen != "auto":
            files[split] = Path(chosen)
    _check_fits(format_, stage, registry)
    _check_columns(format_, columns)
    for split, file in files.items():
        key = "data.path" if data.path is not None and split == "train" else f"data {name}, {split}"
        if file.is_dir():
            raise DataError(f"{key}: {file} is a folder; give one file.")
        if file.exists() and not os.access(file, os.R_OK):
            raise DataError(f"{key}: {file} cannot be read: permission denied.")
        if not file.is_file():
            hint = f" Make it with: {make}" if make else " Relative paths start from the current folder."
            raise DataError(f"{key}: {file} does not exist.{hint}")
        if file.stat().st_size == 0:
            raise DataError(f"{key}: {file} is empty.")
    return Source(name, format_, files, columns)


def _check_fits(format_: str, stage: str, registry: dict[str, _Entry]) -> None:
    allowed = STAGE_FORMATS[stage]
    if format_ not in allowed:
        shipped = sorted(name for name, entry in registry.items() if entry.format in allowed)
        reason = f"stage={stage} trains on {' or '.join(allowed)} rows; registered sets of that kind: "
        raise ConfigError([Mistake("data.format", reason + (", ".join(shipped) or "none") + ".", format_)])


def _check_columns(format_: str, columns: dict[str, str]) -> None:
    known = COLUMNS.get(format_, tuple(columns))
    reason = f"format {format_} has no such column. Known: {', '.join(known)}."
    unknown = {name: column for name, column in columns.items() if name not in known}
    if unknown:
        raise ConfigError(
            [Mistake(f"data.columns.{name}", reason, column, nearest(name, known)) for name, column in unknown.items()]
        )
