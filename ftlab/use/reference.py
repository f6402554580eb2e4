"""``docs/reference.md``: every key with what it takes, its value in ``conf/`` and what it means.

Types and bounds are the schema's; values and meanings, which stand as comments beside them, are those of ``conf/``.
``python -m ftlab.use.reference > docs/reference.md`` writes it anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftlab.base.terminal import echo
from ftlab.config.keys import comment_on, resolve_reference
from ftlab.config.paths import config_dir, group_names
from ftlab.rundir.documents import YAML_LOADER, parse_yaml
from ftlab.schema import Run

_OPENING = """# Every key

Made from `conf/` and the schema by `python -m ftlab.use.reference > docs/reference.md`; a test compares the two.
A key is given as `key=value`, a choice of a group as `group=choice`. `ftlab explain KEY` says what a key has
in a run of yours, and which file, choice or override set it."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<", "minLength": "length >=",
           "minItems": "entries >="}  # fmt: skip
_WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false", "null": "null",
          "object": "mapping"}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """:param takes: type, choices and bounds. :param value: as ``conf/`` has it. :param meaning: the comment on it."""

    key: str
    takes: str
    value: str
    meaning: str


def markdown() -> str:
    """The whole page."""
    lines = [_OPENING]
    for title, entries in sections():
        lines += ["", f"## {title}", "", "| key | takes | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{e.key}` | {_cell(e.takes)} | {_cell(f'`{e.value}`')} | {_cell(e.meaning)} |" for e in entries]
    return "\n".join(lines)


@functools.cache
def sections() -> tuple[tuple[str, list[Entry]], ...]:
    """The keys of each group, and of each choice of a group whose choices have keys of their own."""
    return tuple(_sections())


def _sections() -> Iterator[tuple[str, list[Entry]]]:
    whole = Run.model_json_schema()
    root = config_dir() / "config.yaml"
    yield "seed", list(_entries(whole, {"properties": {"seed": whole["properties"]["seed"]}}, [root], "", ""))
    for group, schema in whole["properties"].items():
        node = resolve_reference(schema, whole)
        if "discriminator" in node:
            for choice, reference in node["discriminator"]["mapping"].items():
                file = config_dir() / group / f"{choice}.yaml"
                member = resolve_reference({"$ref": reference}, whole)
                entries = list(_entries(whole, member, [file], "" if group == "task" else f"{group}.", f"{group}."))
                if entries:
                    yield f"{group}={choice}", entries
        elif "properties" in node:
            if group in group_names():
                yield group, list(_entries(whole, node, _files(group), "", f"{group}."))
            else:
                files = [root, config_dir() / "stage" / "sft.yaml"]  # the learning rate is a stage's
                yield group, list(_entries(whole, node, files, f"{group}.", f"{group}."))


def entries_of(group: str, run: Run) -> list[Entry]:
    """The keys of a group of a run; of one whose choices have keys of their own, those of the choice that it has."""
    name = getattr(getattr(run, group, None), "name", None)
    return next((listed for title, listed in sections() if title in (group, f"{group}={name}")), [])


def entry_of(key: str, run: Run) -> Entry | None:
    """What there is to say of a dotted key; None where it has a name of the user's own."""
    others = (entry for _, listed in sections() for entry in listed)  # a phase may have another stage than its run
    return next((one for one in (*entries_of(key.partition(".")[0], run), *others) if one.key == key), None)


def choices(group: str, names: Sequence[str] | None = None) -> list[str]:
    """The choices of a group, the one by default with a star; empty where it is no group.

    :param names: those there are; None for the shipped ones.
    """
    if names is None:
        names = sorted(path.stem for path in (config_dir() / group).glob("[!_]*.yaml"))
    return [f"{name}*" if name == _default_choices().get(group) else name for name in names]


@functools.cache
def _default_choices() -> Mapping[str, str]:
    """The choice by default of each group."""
    root = parse_yaml((config_dir() / "config.yaml").read_text(encoding="utf-8"))
    return {name: choice for entry in root["defaults"] if isinstance(entry, dict) for name, choice in entry.items()}


def _files(group: str) -> list[Path]:
    """The files of a group: the choice by default, what all choices share, the others; of sizes the smallest first."""
    default = _default_choices()[group]

    def rank(file: Path) -> tuple[bool, bool, bool, int, str]:
        return file.stem != default, file.stem != "_base", not file.stem.startswith("_"), len(file.stem), file.stem

    return sorted((config_dir() / group).glob("*.yaml"), key=rank)


def _entries(
    whole: Mapping[str, Any], node: Mapping[str, Any], files: list[Path], inside: str, prefix: str
) -> Iterator[Entry]:
    """:param inside: before the keys as the files have them. :param prefix: before the keys as they are typed."""
    read = [_settings(file) for file in files]
    group = prefix.partition(".")[0]
    for name, schema in node["properties"].items():
        inner = resolve_reference(schema, whole)
        if "properties" in inner:
            yield from _entries(whole, inner, files, f"{inside}{name}.", f"{prefix}{name}.")
        elif name not in ("name", "words") or prefix in ("run.", "sweep.", "data."):
            # A file of a group has its keys at the top, or below the group's name where it sets others' too.
            spelled = {f"{inside}{name}", f"{prefix}{name}"} if group in group_names() else {f"{inside}{name}"}
            stands = [settings[key] for settings in read for key in settings if key in spelled]
            value = stands[0][0]
            meaning = next((comment for _, comment in stands if comment), "")
            yield Entry(f"{prefix}{name}", takes(inner, whole), value, meaning)


def takes(node: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """The type, choices and bounds of a node of the schema, in words."""
    node = resolve_reference(node, whole)
    if "anyOf" in node:
        return ", or ".join(takes(one, whole) for one in node["anyOf"])
    if "const" in node or "enum" in node:
        values = node["enum"] if "enum" in node else [node["const"]]
        return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
    bounds = [f"{sign} {node[key]}" for key, sign in _BOUNDS.items() if key in node]
    if node.get("type") == "array":
        items = node.get("items") or node["prefixItems"][0]
        return ", ".join([f"list of {takes(items, whole)}", *bounds])
    return " ".join([_WORDS[node["type"]], *([", ".join(bounds)] if bounds else [])])


@functools.cache  # a group's files are asked for each of its parts
def _settings(file: Path) -> Mapping[str, tuple[str, str]]:
    """Dotted keys of a config file, each with its value as it is written and the comment on it."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    settings: dict[str, tuple[str, str]] = {}

    def walk(node: yaml.MappingNode, prefix: str) -> None:
        for name, value in node.value:
            key = f"{prefix}{name.value}"
            if isinstance(value, yaml.MappingNode) and value.value:
                walk(value, f"{key}.")
            else:
                written = text[value.start_mark.index : value.end_mark.index].strip()
                settings[key] = written, comment_on(lines, name.start_mark.line)

    node = yaml.compose(text, YAML_LOADER)
    if isinstance(node, yaml.MappingNode):
        walk(node, "")
    return settings


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    echo(markdown())
