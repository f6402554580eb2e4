"""Names of registered data sets, which may be chosen like the files of the data group."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from ftlab.config.paths import shipped

CHOICE = "registered"  # the file of the data group that takes any of them by its ``data.name``


def names(overrides: Sequence[str]) -> Collection[str]:
    """Return the registered data sets that the command line names; whether they exist is checked when they are used."""
    chosen = [o.partition("=")[2] for o in overrides if o.startswith("data.registry=")]
    path = Path(chosen[-1].strip("'\"") if chosen else shipped("dataset/dataset_info.yaml"))
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ()
    return entries.keys() if isinstance(entries, dict) else ()
