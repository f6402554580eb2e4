"""Reading a registry of data sets: ``dataset_info.yaml``, or LLaMA-Factory's ``dataset_info.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from ftlab.data.sources.entry import Entry, Files, HubSplits, contradictions, raise_all
from ftlab.errors import DataError, Mistake, first_line, nearest
from ftlab.schema import Format


@dataclass(frozen=True)
class LlamaFactoryEntry:
    """A data set of LLaMA-Factory's dataset_info.json, looked at when it is chosen: many there are of no use here."""

    registry: Path
    name: str
    raw: Any

    def for_stage(self, stage: str) -> Entry:
        """:raises DataError: the entry is wrong, or is of a kind that cannot be served."""
        from ftlab.data.sources.llamafactory import translate

        return translate(self.registry, self.name, self.raw, stage)


def read_registry(path: Path) -> Mapping[str, Entry | LlamaFactoryEntry]:
    """:param path: of our YAML, or of a dataset_info.json as LLaMA-Factory reads it.
    :raises DataError: the file is missing, is not YAML (or JSON), or entries are wrong: all of them at once.
    """
    raw = _read(path)
    if not isinstance(raw, dict):
        raise DataError(f"data.registry={path}: must map names to data sets, not be a {type(raw).__name__}.")
    if path.suffix == ".json":
        return {str(name): LlamaFactoryEntry(path, str(name), entry) for name, entry in raw.items()}
    entries = {str(name): _entry(str(name), entry) for name, entry in raw.items()}
    raise_all(path, [mistake for entry in entries.values() if isinstance(entry, list) for mistake in entry])
    return {name: entry for name, entry in entries.items() if isinstance(entry, Entry)}


def _entry(name: str, raw: object) -> Entry | list[Mistake]:
    if not isinstance(raw, dict):
        return [Mistake(name, "must have the keys format and files (or hub, or modelscope).")]
    try:
        entry = Entry.model_validate(raw)
    except ValidationError as error:
        return [_mistake(name, detail) for detail in error.errors()]
    return list(contradictions(name, entry)) or entry


def _mistake(name: str, detail: Any) -> Mistake:
    # Of a union pydantic names the member it tried: files.train.str
    path = [str(part) for part in detail["loc"] if part not in ("str", "tuple[str, ...]")]
    key = ".".join((name, *path))
    if detail["type"] == "extra_forbidden":
        model = Files if path[0] == "files" else HubSplits if path[0] == "splits" else Entry
        known = list(model.model_fields)
        return Mistake(key, f"no such key. Known: {', '.join(known)}.", None, nearest(path[-1], known))
    if detail["type"] == "missing":
        return Mistake(key, "is missing.")
    if detail["type"] == "literal_error":
        allowed = get_args(Format)
        near = nearest(str(detail["input"]), allowed)
        return Mistake(key, f"must be one of: {', '.join(allowed)}.", detail["input"], near)
    return Mistake(key, detail["msg"].replace("Input should be", "must be") + ".", detail["input"])


def _read(path: Path) -> Any:
    if not path.is_file():
        raise DataError(f"data.registry={path}: no such file.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.registry={path}: not UTF-8 at byte {error.start}.") from None
    except OSError as error:
        raise DataError(f"data.registry={path}: cannot be read: {error.strerror}.") from None
    return _json(path, text) if path.suffix == ".json" else _yaml(path, text) or {}


def _yaml(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except _DuplicateKeys as twice:
        raise_all(path, twice.mistakes)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise DataError(f"data.registry={path}: not YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise DataError(f"data.registry={path}: not YAML: {first_line(error)}.") from None


def _json(path: Path, text: str) -> Any:
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return dict(pairs)

    try:
        raw = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        where = f"in line {error.lineno}, column {error.colno}"
        raise DataError(f"data.registry={path}: not JSON: {error.msg} {where}.") from None
    if twice:
        _check_duplicate_keys(path, text)
        raise_all(
            path, [Mistake(name, "stands twice in one object; the last would win. Rename one.") for name in twice]
        )
    return raw


def _check_duplicate_keys(path: Path, text: str) -> None:
    """:raises DataError: with the lines, which YAML's reader knows and JSON's does not."""
    try:
        yaml.load(text, _Loader)
    except _DuplicateKeys as twice:
        raise_all(path, twice.mistakes)
    except yaml.YAMLError:  # tabs, say; then the names have to do
        return


class _DuplicateKeys(Exception):
    def __init__(self, mistakes: Sequence[Mistake]):
        super().__init__("a key stands twice")
        self.mistakes = mistakes


class _Loader(yaml.SafeLoader):
    """YAML's own loader, except that it sees a key that stands twice; the last one wins elsewhere."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        mistakes = list(_duplicate_keys(node, ())) if node is not None else []
        if mistakes:
            raise _DuplicateKeys(mistakes)
        return self.construct_document(node) if node is not None else None


def _duplicate_keys(node: yaml.Node, path: tuple[str, ...]) -> Iterator[Mistake]:
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _duplicate_keys(child, path)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines and key.tag != "tag:yaml.org,2002:merge":
            where = ".".join((*path, name))
            yield Mistake(where, f"stands twice, in lines {lines[name]} and {line}; the last would win. Rename one.")
        lines[name] = line
        yield from _duplicate_keys(value, (*path, name))
