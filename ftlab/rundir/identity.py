"""What a run that is continued must share with its start."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ftlab.rundir.plan import Phase
from ftlab.schema import CHOOSING, OPERATIONAL, Run


def identity_of_phase(phase: Phase) -> dict[str, Any]:
    return {**dict(identity(phase.config)), "from": phase.source, "start": phase.start}


def identity(run: Run) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of what a continued run must share with its start."""
    yield from identity_of_config(run.model_dump(mode="json"))


def identity_of_config(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same of a config in a run.yaml, which may be of another version and have keys that this one does not know."""
    schema = Run.model_json_schema()
    train = config["train"]
    chooses = bool(train.get("keep_best")) or train.get("early_stopping") is not None
    yield from _identity(config, schema, schema["$defs"], "", (True, CHOOSING) if not chooses else (True,))


def _identity(
    values: Any, schema: dict[str, Any], defs: dict[str, Any], prefix: str, operational: Collection[Any]
) -> Iterator[tuple[str, Any]]:
    """:param operational: marks of keys that are no part of it."""
    for key, value in values.items():
        field = schema.get("properties", {}).get(key, {})
        if field.get(OPERATIONAL) in operational:
            continue
        target = defs.get(field.get("$ref", "").rsplit("/", 1)[-1])
        if target is not None and isinstance(value, dict):
            yield from _identity(value, target, defs, f"{prefix}{key}.", operational)
        elif isinstance(value, dict):
            yield from ((f"{prefix}{key}.{inner}", inner_value) for inner, inner_value in value.items())
        else:
            yield f"{prefix}{key}", value
