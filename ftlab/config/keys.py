"""Dotted keys of a config: which there are, what is near one that there is not, and what files say of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ftlab.errors import Mistake, nearest
from ftlab.schema import Run

# Mappings that take names of the user's own.
_OPEN = ("data.columns", "data.tags", "data.golden.columns", "data.golden.tags", "model.recommended.learning_rate")


def is_open(key: str) -> bool:
    """Whether a mapping takes names of the user's own there."""
    return key.startswith(tuple(f"{name}." for name in _OPEN))


def takes_list(key: str) -> bool:
    """Whether a list is a value of a dotted key."""
    whole = Run.model_json_schema()
    nodes: list[Mapping[str, Any]] = [whole]
    for part in key.split("."):
        nodes = [resolve_reference(node, whole) for node in nodes]
        found = [node["properties"][part] for node in nodes if part in node.get("properties", {})]
        nodes = [inner for node in found for inner in (*node.get("anyOf", ()), *node.get("oneOf", ()), node)]
    return any(resolve_reference(node, whole).get("type") == "array" for node in nodes)


def resolve_reference(node: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node of a JSON schema, or the definition in ``whole`` that it refers to."""
    return whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def flatten(
    given: Mapping[str, Any], prefix: str = "", keep_empty: Callable[[str], bool] = lambda _: True
) -> Iterator[tuple[str, Any]]:
    """Flatten a mapping to dotted keys and values. :param keep_empty: whether keys of empty mappings are kept."""
    for key, value in given.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or not keep_empty(dotted)):
            yield from flatten(value, f"{dotted}.", keep_empty)
        else:
            yield dotted, value


def unknown_key(
    key: str, cfg: DictConfig, groups: Sequence[str] = (), hidden: Sequence[str] = ("experiment", "phase")
) -> Mistake | None:
    """Return why there is no ``key``, with similar keys, or None where the key exists.

    :param groups: that may stand at the top too. :param hidden: what is not told of there.
    """
    parts = key.split(".")
    node: Any = cfg
    for i, part in enumerate(parts):
        here = ".".join(parts[:i])
        if here not in _OPEN and (not isinstance(node, DictConfig) or part not in node):
            keys = [str(name) for name in node if name != "hydra"] if isinstance(node, DictConfig) else []
            known = sorted({*keys, *groups} - {*hidden}) if i == 0 else keys
            where = f"{here} has" if here else "Groups and keys"
            near = [f"{here}.{name}" if here else name for name in nearest(part, known)] or _elsewhere(parts[-1], cfg)
            reason = f"no such key. {where}: {', '.join(known)}." if known else f"{here} is a value and has no keys."
            return Mistake(key, reason, None, near)
        node = OmegaConf.select(cfg, ".".join(parts[: i + 1]), throw_on_missing=False)
    return None


def _elsewhere(name: str, cfg: DictConfig) -> list[str]:
    """Keys in other groups whose last part is ``name`` or looks like it."""
    groups = {str(group): node for group, node in cfg.items() if isinstance(node, DictConfig) and group != "hydra"}
    known = {f"{group}.{key!s}" for group, node in groups.items() for key in node}
    by_last = {key.split(".")[-1]: key for key in sorted(known)}
    return [by_last[near] for near in nearest(name, by_last)]


def comment_on(lines: Sequence[str], place: int) -> str:
    """The comment on a line, with the lines on which it goes on; empty without one."""
    _, found, comment = lines[place].partition(" # ")
    if not found:
        return ""
    parts = [comment]
    for line in lines[place + 1 :]:
        if not re.match(r" {16,}# ", line):
            break
        parts.append(line.strip().removeprefix("# "))
    return " ".join(part.strip() for part in parts)
