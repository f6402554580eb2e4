"""The config of a command that works with a run: the run's own, with what the command line says in its place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import ConfigError, Mistake
from ftlab.schema import Run

_OF_TASK = ("task", "run.dir", "run.checkpoint")
# Of another data set, what stays the run's: how the model was taught to read a row.
_READING = ("max_length", "truncation", "train_on", "special_tokens", "on_same_role")
_OTHER_DATA = ("data", "data.name", "data.path", "data.registry")
_FRACTIONS = ("fraction", "test_fraction")
_PATHS = ("path", "registry", "cache")


@dataclass(frozen=True)
class Given:
    """What the command line says of the run's config.

    :param values: dotted keys, or whole groups, and their values. :param data: its data group, composed whole.
    """

    values: Mapping[str, Any]
    data: Mapping[str, Any]

    @classmethod
    def read(cls, given: Run, overrides: Sequence[str], groups: Sequence[str], keys: Sequence[str]) -> Given:
        """Relative paths start from the current folder.

        :param given: the command line, composed without the run.
        :param groups, keys: what the command may have otherwise than the run; the rest is what was trained.
        :raises ConfigError: keys that a run has for good.
        """
        typed = [override.partition("=")[0].lstrip("+~") for override in overrides if not override.startswith("-")]
        wrong, values = [], dict[str, Any]()
        whole = absolute(given).model_dump(mode="python")
        for key in typed:
            if key.startswith(_OF_TASK):
                continue
            if key.partition(".")[0] not in groups and key not in keys:
                name = given.task.name
                reason = (
                    f"is the run's own, and ftlab {name} takes what was trained. Another may be: "
                    f"{', '.join((*groups, *keys))}, run.checkpoint, and what ftlab {name} --help lists"
                )
                wrong.append(Mistake(key, reason))
                continue
            found: Any = whole
            for part in key.split("."):
                found = found[part]
            values[key] = found
        if wrong:
            raise ConfigError(wrong)
        return cls(values, whole["data"])

    @property
    def has_other_data(self) -> bool:
        """Whether the rows are of another data set than the run's."""
        return any(key in self.values for key in _OTHER_DATA)

    def merged(self, config: Run) -> Run:
        """The run's config with the given values. A data set of another name, path or registry is taken whole, but for
        how the model reads rows."""
        whole = config.model_dump(mode="python")
        if self.has_other_data:
            kept = {key: whole["data"][key] for key in _READING if f"data.{key}" not in self.values}
            # All of its rows, unless it has splits: none of them is trained on here.
            undrawn = {key: 0.0 for key in _FRACTIONS if f"data.split.{key}" not in self.values}
            whole["data"] = {**self.data, **kept, "split": {**self.data["split"], **undrawn}}
        for key, value in self.values.items():
            if not self.has_other_data or key.partition(".")[0] != "data":
                _set(whole, key, value)
        return Run.model_validate(whole)


def absolute(run: Run) -> Run:
    """The same with its data's paths as they are from the current folder, so that they are the same from elsewhere."""
    data = run.data
    paths = {key: _absolute(value) for key in _PATHS if isinstance(value := getattr(data, key), str)}
    files = {
        key: _absolute(value)
        for key in ("validation", "test", "golden")
        if (value := getattr(data.split, key)) not in ("auto", "none")
    }
    changed = data.model_copy(update={**paths, "split": data.split.model_copy(update=files)})
    metrics = run.eval.metrics
    if metrics is not None:
        named = tuple(_absolute(name) if ".py:" in name else name for name in metrics)
        run = run.model_copy(update={"eval": run.eval.model_copy(update={"metrics": named})})
    return run.model_copy(update={"data": changed})


def _absolute(path: str) -> str:
    if path.startswith(("hf://", "ms://")):
        return path
    return str(Path(os.path.expanduser(path)).absolute())  # noqa: PTH111 (Path raises where ~ names nobody)


def _set(whole: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        whole = whole[part]
    whole[last] = value
