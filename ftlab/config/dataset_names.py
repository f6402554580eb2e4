"""Names of registered data sets, which may be chosen like the files of the data group."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import yaml

from ftlab.config.paths import shipped

CHOICE = "registered"  # the file of the data group that takes any of them by its ``data.name``


def names(overrides: Sequence[str]) -> Collection[str]:
    """Return the registered data sets that the command line names; whether they exist is checked when they are used."""
    chosen = [o.partition("=")[2] for o in overrides if o.startswith("data.registry=")]
    return in_registry(chosen[-1].strip("'\"") if chosen else None)


def in_registry(registry: str | None) -> Collection[str]:
    """The names of a registry, none where it cannot be read. :param registry: its file; None for the shipped one."""
    path = Path(registry or shipped("dataset/dataset_info.yaml"))
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return entries.keys() if isinstance(entries, dict) else ()


def with_registered(groups: Mapping[str, Sequence[str]], registered: Collection[str]) -> dict[str, Sequence[str]]:
    """The choices of every group, of data also the registered sets, which have no file in the group."""
    return {**groups, "data": sorted({*groups["data"], *map(str, registered)} - {CHOICE})}
