"""An experiment that a command writes: where it goes, how its lines look, and whether it composes."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ftlab.config import check, command_line
from ftlab.config.paths import config_dir
from ftlab.errors import ConfigError, FtlabError, Mistake, NotReadyError
from ftlab.rundir.files import write_atomic

_PLAIN = re.compile(r"[\w./][\w./ -]*", re.ASCII)
_COMMENT = 30  # column at which comments begin


@dataclass(frozen=True, slots=True)
class Target:
    """Where an experiment is written. :param folder: what ``--config-dir`` names."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / "experiment" / f"{self.name}.yaml"

    @property
    def arguments(self) -> str:
        return shlex.join([f"--config-dir={self.folder}", f"experiment={self.name}"])


def target(out: str, name: str) -> Target:
    """:param out: a folder of config groups, or the file itself.
    :raises ConfigError: a file that Hydra would not find.
    """
    path = Path(out).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        return Target(path, name)
    if path.parent.name != "experiment" or path.suffix != ".yaml":
        reason = f"an experiment is found in a folder of that name: out={path.parent / 'experiment' / path.stem}.yaml"
        raise ConfigError([Mistake("task.out", reason, out)])
    return Target(path.parent.parent, path.stem)


def default_target(file: str, experiment: str | None, out: str, overrides: Sequence[str]) -> Target:
    """Where the experiment for a file goes: to ``--config-dir`` where that is given and ``out`` is not.

    :param experiment: its name; None takes the file's. :param out: the folder, or the experiment's file.
    """
    own = command_line.read(overrides).config_dir
    folder = own if own is not None and not any(o.startswith("task.out=") for o in overrides) else out
    stem = Path(file.rstrip("/")).name.split(".")[0]
    return target(folder, experiment or re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-") or "mine")


def check_free(where: Target, overwrite: bool) -> None:
    """:raises NotReadyError: it is there already, or one that ships has the name, which would be taken instead."""
    shipped = config_dir() / "experiment" / where.path.name
    if shipped.exists() and shipped.resolve() != where.path.resolve():
        raise NotReadyError(f"ftlab ships an experiment={where.name}, which would be taken. Give experiment=NAME.")
    if where.path.exists() and not overwrite:
        raise NotReadyError(f"{where.path} is there already. --overwrite replaces it, experiment=NAME writes another.")


def write(where: Target, text: str, beside: Sequence[str] = ()) -> None:
    """:param beside: overrides that it is checked with.
    :raises FtlabError: what was written is no good config, and is taken back.
    """
    before = where.path.read_text(encoding="utf-8") if where.path.exists() else None
    try:
        write_atomic(where.path, text)
    except OSError as error:
        raise NotReadyError(f"{where.path} cannot be written: {error.strerror}.") from None
    try:
        check.check(command_line.read([f"--config-dir={where.folder}", f"experiment={where.name}", *beside]))
    except FtlabError:
        if before is None:
            where.path.unlink()
        else:
            write_atomic(where.path, before)
        raise


def lines(node: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of YAML. :param node: keys with their values as text and a comment, or with further keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from lines(value, indent + "  ")
        else:
            said, comment = value
            yield f"{f'{indent}{key}: {said}':<{_COMMENT}}  # {comment}"


def put(node: dict[str, Any], key: str, text: str, comment: str) -> None:
    """Set a dotted key. :param node: changed. :param text: the value, as YAML has it."""
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = (text, comment)


def value_text(value: Any) -> str:
    """A value as YAML writes it in one line.

    >>> value_text([True, None, 1.5, "a b", {"c": "d"}])
    '[true, null, 1.5, a b, {c: d}]'
    """
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value_text(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return scalar(value) if isinstance(value, str) else str(value)


def scalar(value: str) -> str:
    """A string as YAML writes it within a flow mapping, and OmegaConf does not interpolate.

    >>> scalar("my.json"), scalar("1"), scalar("a: b")
    ('my.json', '"1"', '"a: b"')
    """
    if _PLAIN.fullmatch(value) and value == value.strip() and yaml.safe_load(value) == value:
        return value
    return json.dumps(value.replace("${", "\\${"), ensure_ascii=False)
