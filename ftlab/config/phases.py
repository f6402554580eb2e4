"""A curriculum: every phase composed to a full config of its own.

A phase begins with the command line, without what names phases; its own entry wins over that, and
``phases.NAME.key=value`` of the command line over both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftlab.config import registered
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import PhaseEntry, Run

# Where ``phases.NAME.key`` travels through Hydra, which knows no keys inside lists: ``phase_keys.NAME.key``.
CARRIER = "phase_keys"
_CHOICE = "_choice_"  # of a group, beside the values of the same group
_TYPED = re.compile(r"^phases\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)
_CARRIED = re.compile(rf"^\+\+{CARRIER}\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)

# What a phase may not differ in from its run.
_OF_THE_RUN = ("task", "run", "tracker", "phase", "phases", "experiment", "hydra")
# What an entry says of the phase itself. Without ``from`` it starts where the last phase that trained a policy ended.
_OWN: Mapping[str, Any] = {"name": None, "from": None, "start": "continue"}

Groups = Mapping[str, Sequence[str]]
Compose = Callable[[Sequence[str]], DictConfig]
Validate = Callable[[DictConfig], Run]


def carried(override: str, groups: Sequence[str]) -> str:
    """``phases.prefer.train.epochs=2`` as Hydra can take it; every other override as it is."""
    found = _TYPED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    return f"++{CARRIER}.{phase}{key}{f'.{_CHOICE}' if key[1:] in groups else ''}={value}"


def as_typed(override: str) -> str:
    """What :func:`carried` was given."""
    found = _CARRIED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    return f"phases.{phase}{key.removesuffix(f'.{_CHOICE}')}={value}"


@dataclass(frozen=True)
class _Asked:
    """What a phase asks for. :param choices: of groups. :param values: by dotted key, in the order that they apply."""

    name: str
    own: Mapping[str, Any]
    choices: Mapping[str, str]
    values: Mapping[str, Any]


def expand(
    entries: Any, keys: Mapping[str, Any], lines: Sequence[str], groups: Groups,
    compose: Compose, validate: Validate,
) -> tuple[PhaseEntry, ...]:  # fmt: skip
    """The phases of a run, each with its full config.

    :param entries: as they stand under ``phases``.
    :param keys: what the command line says of phases, by name or number.
    :param lines: the command line's overrides. :param groups: the config groups, each with its choices.
    :raises ConfigError: every mistake of every phase, each with the phase's name.
    """
    if not isinstance(entries, list):
        raise ConfigError([Mistake("phases", "must be a list: phases=[{name: prefer, stage: dpo}]", entries)])
    mistakes: list[Mistake] = []
    asked = [_with_registered(one, lines, groups, mistakes) for one in _asked(entries, keys, groups, mistakes)]
    if not mistakes:
        _check_shadowed(asked, lines, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    shared = [line for line in lines if not _is_carried(line)]
    found: list[PhaseEntry] = []
    models: dict[str, str] = {}
    for one in asked:
        source = _source(one, [phase for phase in found if phase.config["stage"]["name"] != "rm"])
        choices = dict(one.choices)
        if source in models and not _chosen(shared, "model"):
            choices.setdefault("model", models[source])  # whatever model the stage would start from by itself
        try:
            cfg = _composed(one, [*shared, *(f"{group}={choice}" for group, choice in choices.items())], compose)
            models[one.name] = cfg.hydra.runtime.choices.model
            run = validate(cfg)
        except ConfigError as error:
            mistakes += [replace(mistake, key=f"phases.{one.name}.{mistake.key}") for mistake in error.mistakes]
            continue
        found.append(
            PhaseEntry(name=one.name, source=source, start=one.own["start"], config=run.model_dump(mode="json"))
        )
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(found)


def _asked(
    entries: Sequence[Any], keys: Mapping[str, Any], groups: Groups, mistakes: list[Mistake]
) -> Iterator[_Asked]:
    names = [str(entry["name"]) if isinstance(entry, Mapping) and entry.get("name") else "" for entry in entries]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        mistakes.append(Mistake("phases", "two phases have this name", name))
    for key in keys:
        if key not in names and not (key.isdigit() and int(key) < len(names)):
            known = ", ".join(names) if names else "none; choose phase=NAME, or give phases=[...]"
            mistakes.append(Mistake(f"phases.{key}", f"no such phase. Phases: {known}.", None, nearest(key, names)))
    for index, (name, entry) in enumerate(zip(names, entries)):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
            reason = "every phase is a mapping with a name of letters, digits, _ and -: {name: prefer, stage: dpo}"
            mistakes.append(Mistake(f"phases.{index}", reason, entry))
            continue
        values: dict[str, Any] = {}
        for given in (entry, keys.get(str(index), {}), keys.get(name, {})):
            if not isinstance(given, Mapping):
                mistakes.append(Mistake(f"phases.{name}", "has keys of its own: phases.NAME.KEY=VALUE", given))
                continue
            values.update(_flat(given, groups))
        wrong = [key for key in values if key.partition(".")[0] in _OF_THE_RUN]
        mistakes += [
            Mistake(f"phases.{name}.{key}", "belongs to the run, not to a phase", values[key]) for key in wrong
        ]
        own = {key: values.pop(key, default) for key, default in _OWN.items()}
        if own["start"] not in (starts := get_args(PhaseEntry.model_fields["start"].annotation)):
            reason = f"must be one of: {', '.join(starts)}."
            mistakes.append(Mistake(f"phases.{name}.start", reason, own["start"], nearest(str(own["start"]), starts)))
        choices = {key: str(values.pop(key)) for key in list(values) if key in groups}
        yield _Asked(name, own, choices, values)


def _with_registered(asked: _Asked, lines: Sequence[str], groups: Groups, mistakes: list[Mistake]) -> _Asked:
    """``asked`` with its choices judged, and one of a registered data set turned into what the group knows."""
    choices, values = dict(asked.choices), dict(asked.values)
    for group, choice in asked.choices.items():
        if choice in groups[group]:
            continue
        own = [f"data.registry={values['data.registry']}"] if "data.registry" in values else []
        if group == "data" and choice in registered.names([*lines, *own]):
            choices["data"] = registered.CHOICE
            values = {"data.name": choice, **values}
            continue
        key, known = f"phases.{asked.name}.{group}", groups[group]
        mistakes.append(Mistake(key, f"no such choice. Choices: {', '.join(known)}.", choice, nearest(choice, known)))
    return replace(asked, choices=choices, values=values)


def _flat(given: Mapping[str, Any], groups: Groups, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a group's choice has the group's name for its key."""
    for key, value in given.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and (value or dotted in groups):
            yield from _flat(value, groups, f"{dotted}.")
        else:
            yield dotted.removesuffix(f".{_CHOICE}"), value


def _composed(asked: _Asked, lines: Sequence[str], compose: Compose) -> DictConfig:
    """:raises ConfigError: a choice or a key that there is not."""
    try:
        cfg = compose(lines)
    except HydraException as error:
        reason = " ".join(str(error).partition("Config search path:")[0].split())
        raise ConfigError([Mistake("config", reason)]) from None
    mistakes = []
    OmegaConf.set_struct(cfg, False)
    cfg.phases = []
    OmegaConf.set_struct(cfg, True)
    for key, value in asked.values.items():
        try:
            OmegaConf.update(cfg, key, value, merge=False, force_add=_is_open(key))
        except OmegaConfBaseException:
            holder = OmegaConf.select(cfg, key.rpartition(".")[0]) if "." in key else cfg
            known = [str(name) for name in holder if name != "hydra"] if isinstance(holder, DictConfig) else []
            near = nearest(key.rpartition(".")[2], known)
            reason = f"no such key. Known: {', '.join(known)}." if known else "no such key"
            mistakes.append(Mistake(key, reason, value, near))
    if mistakes:
        raise ConfigError(mistakes)
    return cfg


def _is_open(key: str) -> bool:
    """Whether a mapping takes names of the user's own there."""
    return key.startswith(("data.columns.", "data.tags.", "model.recommended.learning_rate."))


def _source(asked: _Asked, policies: Sequence[PhaseEntry]) -> str | None:
    """Where a phase starts from: a phase, a run directory, or None for the model as it is configured."""
    source = asked.own["from"]
    if source is None:
        return policies[-1].name if policies else None
    return None if source == "none" else str(source)


def _is_carried(line: str) -> bool:
    return line.startswith(f"++{CARRIER}.")


def _chosen(lines: Sequence[str], group: str) -> bool:
    return any(line.partition("=")[0] == group for line in lines)


def _check_shadowed(asked: Sequence[_Asked], lines: Sequence[str], mistakes: list[Mistake]) -> None:
    """A value on the command line that every phase sets itself would have no effect at all."""
    for override in OverridesParser.create().parse_overrides([line for line in lines if not _is_carried(line)]):
        key = override.key_or_group
        if all(key in (*one.choices, *one.values) for one in asked):
            first = asked[0].name
            reason = f"every phase sets its own, so this one would do nothing. Name the phase: phases.{first}.{key}=..."
            mistakes.append(Mistake(key, reason, override.get_value_string()))
