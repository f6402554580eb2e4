"""A curriculum: every phase composed to a full config of its own.

A phase begins with the command line, without what names phases; its own entry wins over that, and
``phases.NAME.key=value`` of the command line over both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ftlab.config import dataset_names, inherited
from ftlab.config.keys import flat, is_open, no_such_key
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import PhaseEntry, Run

# Where ``phases.NAME.key`` travels through Hydra, which knows no keys inside lists: ``phase_keys.NAME.key``.
CARRIER = "phase_keys"
_CHOICE = "_choice_"  # of a group, beside the values of the same group
_ODD = "odd__"  # begins what stands for a name that Hydra could not read; its bytes follow as hexadecimal digits
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TYPED = re.compile(r"^\+{0,2}phases\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)
_CARRIED = re.compile(rf"^\+\+{CARRIER}\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)

# What a phase may not differ in from its run.
_OF_THE_RUN = ("task", "run", "tracker", "phase", "phases", "experiment", "hydra")
# What an entry says of the phase itself. Without ``from`` it starts where the last phase that trained a policy ended.
OWN: Mapping[str, Any] = {"name": None, "from": None, "start": "continue"}
# What an entry's choice of a data set leaves to the command line: not which rows, but how they are cut for the model.
_OF_THE_MODEL = ("data.max_length", "data.overlap")

Groups = Mapping[str, Sequence[str]]
Compose = Callable[[Sequence[str]], DictConfig]
Validate = Callable[[DictConfig], Run]
KeysOf = Callable[[str, str], Collection[str]]


def carried(override: str, groups: Sequence[str]) -> str:
    """``phases.prefer.train.epochs=2`` as Hydra can take it; every other override as it is."""
    found = _TYPED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    if not (_NAME.fullmatch(phase) or (phase.isdecimal() and str(int(phase)) == phase)):
        phase = _ODD + phase.encode().hex()
    return f"++{CARRIER}.{phase}{key}{f'.{_CHOICE}' if key[1:] in groups else ''}={value}"


def as_typed(override: str) -> str:
    """What :func:`carried` was given."""
    found = _CARRIED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    return f"phases.{_named(phase)}{key.removesuffix(f'.{_CHOICE}')}={value}"


def is_carried(override: str) -> bool:
    return override.startswith(f"++{CARRIER}.")


def _named(phase: str) -> str:
    return bytes.fromhex(phase.removeprefix(_ODD)).decode() if phase.startswith(_ODD) else phase


@dataclass(frozen=True)
class Asked:
    """What a phase asks for.

    :param own: of the phase itself, as in ``OWN``. :param choices: of groups.
    :param values: by dotted key, in the order that they apply. :param is_whole: whether all choices are such as exist.
    """

    name: str
    own: Mapping[str, Any]
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    is_whole: bool = True

    def sets(self, key: str, keys_of: KeysOf) -> bool:
        """Whether it says something of ``key``, itself or by the choice of a group."""
        group, _, inner = key.partition(".")
        by_choice = group in self.choices and inner in keys_of(group, self.choices[group])
        return key in self.choices or key in self.values or (by_choice and key not in _OF_THE_MODEL)


@dataclass(frozen=True)
class Composer:
    """How configs are made.

    :param lines: the command line's overrides. :param groups: the config groups, each with its choices.
    :param keys_of: the keys that a group's choice gives values of its own.
    """

    lines: Sequence[str]
    groups: Groups
    compose: Compose
    validate: Validate
    keys_of: KeysOf


@dataclass(frozen=True)
class Composed:
    """A phase that is composed. :param lines: the overrides of its groups and of the command line.
    :param inherited: what it takes from the policy that it goes on from. :param cfg: with everything applied."""

    asked: Asked
    entry: PhaseEntry
    lines: Sequence[str]
    inherited: Mapping[str, Any]
    cfg: DictConfig


def expand(entries: Any, keys: Mapping[str, Any], composer: Composer) -> tuple[Composed, ...]:
    """The phases of a run, each with its full config.

    :param entries: as they stand under ``phases``.
    :param keys: what the command line says of phases, by name or number.
    :raises ConfigError: every mistake of every phase, each with the phase's name.
    """
    if not isinstance(entries, list):
        raise ConfigError([no_list(entries)])
    mistakes: list[Mistake] = []
    asked = [_with_registered(one, composer, mistakes) for one in _asked(entries, keys, composer, mistakes)]
    _check_shadowed(asked, composer, mistakes)
    found: list[Composed] = []
    policies: list[str] = []
    models: dict[str, inherited.Policy] = {}
    for one in asked:
        source = _source(one, policies)
        wrong: list[Mistake] = []
        policy = models.get(source or "") or inherited.of_run(source)
        composed = _composed(one, source, policy, composer, wrong)
        mistakes += [replace(mistake, key=f"phases.{one.name}.{mistake.key}") for mistake in wrong]
        if composed is None or composed.cfg.stage.name != "rm":
            policies.append(one.name)
        if composed is not None:
            model = composed.entry.config["model"]
            models[one.name] = inherited.Policy(composed.cfg.hydra.runtime.choices.model, model, {})
            found.append(composed)
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(found)


def no_list(entries: Any) -> Mistake:
    return Mistake("phases", "must be a list: phases=[{name: prefer, stage: dpo}]", entries)


def said(keys: Mapping[str, Any], lines: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """What the command line says of phases, in its order: the name or number, the dotted key, the value."""
    for found in filter(None, map(_CARRIED.match, lines)):
        phase, key, _ = found.groups()
        value: Any = keys
        for part in (phase, *key.split(".")[1:]):
            value = value[part] if isinstance(value, Mapping) and part in value else said  # a later line replaced it
        if value is not said:
            yield _named(phase), key[1:], value


def _asked(
    entries: Sequence[Any], keys: Mapping[str, Any], composer: Composer, mistakes: list[Mistake]
) -> Iterator[Asked]:
    names = [str(entry["name"]) if isinstance(entry, Mapping) and entry.get("name") else "" for entry in entries]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        mistakes.append(Mistake("phases", "two phases have this name", name))
    told = list(said(keys, composer.lines))
    for phase in dict.fromkeys(phase for phase, _, _ in told):
        if phase not in names and phase not in map(str, range(len(names))):
            mistakes.append(no_such_phase(phase, names))
    for index, (name, entry) in enumerate(zip(names, entries)):
        if not _NAME.fullmatch(name):
            reason = "every phase is a mapping with a name of letters, digits, _ and -: {name: prefer, stage: dpo}"
            mistakes.append(Mistake(f"phases.{index}", reason, entry))
            continue
        values = flat_of(entry, composer.groups)
        for phase, key, value in told:
            if phase not in (str(index), name):
                continue
            if not key and not isinstance(value, Mapping):
                mistakes.append(Mistake(f"phases.{name}", f"has keys of its own: phases.{name}.KEY=VALUE", value))
                continue
            of_line = flat_of({key: value} if key else value, composer.groups)
            if "name" in of_line:
                reason = "a phase is named in its entry, where the list of phases stands; here it would change nothing"
                mistakes.append(Mistake(f"phases.{phase}.name", reason, of_line.pop("name")))
            values.update(of_line)
        wrong = [key for key in values if key.partition(".")[0] in _OF_THE_RUN]
        mistakes += [
            Mistake(f"phases.{name}.{key}", "belongs to the run, not to a phase", values.pop(key)) for key in wrong
        ]
        own = {key: values.pop(key, default) for key, default in OWN.items()}
        if own["start"] not in (starts := get_args(PhaseEntry.model_fields["start"].annotation)):
            reason = f"must be one of: {', '.join(starts)}."
            mistakes.append(Mistake(f"phases.{name}.start", reason, own["start"], nearest(str(own["start"]), starts)))
            own["start"] = OWN["start"]
        choices = {key: str(values.pop(key)) for key in list(values) if key in composer.groups}
        yield Asked(name, own, choices, values)


def no_such_phase(phase: str, names: Sequence[str]) -> Mistake:
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    known = numbered or "none; choose phase=NAME, or give phases=[...]"
    return Mistake(f"phases.{phase}", f"no such phase. Phases: {known}.", None, nearest(phase, names))


def _with_registered(asked: Asked, composer: Composer, mistakes: list[Mistake]) -> Asked:
    """``asked`` with its choices judged, and one of a registered data set turned into what the group knows.

    Where a choice is wrong, what is said of its group is left out, so that the rest can be judged.
    """
    choices, values = dict(asked.choices), dict(asked.values)
    for group, choice in asked.choices.items():
        known = composer.groups[group]
        if choice in known:
            continue
        own = [f"data.registry={values['data.registry']}"] if "data.registry" in values else []
        if group == "data" and choice in dataset_names.names([*composer.lines, *own]):
            choices["data"] = dataset_names.CHOICE
            values = {"data.name": choice, **values}
            continue
        reason = f"no such choice. Choices: {', '.join(known)}."
        mistakes.append(Mistake(f"phases.{asked.name}.{group}", reason, choice, nearest(choice, known)))
        del choices[group]
        values = {key: value for key, value in values.items() if not key.startswith(f"{group}.")}
    return replace(asked, choices=choices, values=values, is_whole=choices.keys() == asked.choices.keys())


def flat_of(given: Mapping[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """Dotted keys and their values; a group's choice has the group's name for its key."""
    found = flat(given, keep_empty=lambda key: key not in groups)
    return {key.removesuffix(f".{_CHOICE}"): value for key, value in found}


def _composed(
    asked: Asked, source: str | None, policy: inherited.Policy | None, composer: Composer, mistakes: list[Mistake]
) -> Composed | None:
    """None where it does not come to a config that is right."""
    lines = _lines_of(asked, policy, composer)
    try:
        cfg = composer.compose(lines)
    except HydraException as error:
        reason = " ".join(str(error).partition("Config search path:")[0].split())
        mistakes.append(Mistake("config", reason))
        return None
    OmegaConf.set_struct(cfg, False)
    cfg.phases = []
    OmegaConf.set_struct(cfg, True)
    given = inherited.apply(cfg, policy, _keys(asked, composer.lines))
    values = _settable(asked, cfg, mistakes)
    full = _with(cfg, values)
    try:
        run = composer.validate(full)
    except ConfigError as error:
        mistakes += _judged(error.mistakes, asked, values, cfg, composer.validate)
        return None
    config = run.model_dump(mode="json")
    entry = PhaseEntry(name=asked.name, source=source, start=asked.own["start"], config=config)
    return Composed(asked, entry, lines, given, full)


def _judged(
    wrong: Sequence[Mistake], asked: Asked, values: Mapping[str, Any], cfg: DictConfig, validate: Validate
) -> list[Mistake]:
    """What is wrong with a phase's values, and what would be without those that are wrong in themselves."""
    right = {key: value for key, value in values.items() if not any(_is_at(mistake.key, key) for mistake in wrong)}
    found = list(wrong)
    if len(right) < len(values):
        try:
            validate(_with(cfg, right))
        except ConfigError as error:
            found += [mistake for mistake in error.mistakes if mistake.key not in {one.key for one in wrong}]
    # Without its choices a phase is not what was meant: rules are not looked at, only values as they are.
    return [one for one in found if asked.is_whole or any(_is_at(one.key, key) for key in values)]


def _settable(asked: Asked, cfg: DictConfig, mistakes: list[Mistake]) -> dict[str, Any]:
    """Those of a phase's values whose keys there are."""
    found = {}
    for key, value in asked.values.items():
        unknown = no_such_key(key, cfg, (), _OF_THE_RUN)
        if unknown is not None:
            near = [f"phases.{asked.name}.{name}" for name in unknown.suggestions]
            mistakes.append(Mistake(key, unknown.reason, value, near))
        elif not is_open(key) and isinstance(OmegaConf.select(cfg, key), DictConfig) and not isinstance(value, Mapping):
            mistakes.append(Mistake(key, f"has keys of its own: phases.{asked.name}.{key}.KEY=VALUE", value))
        else:
            found[key] = value
    return found


def _with(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    full = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(full, key, value, merge=False, force_add=is_open(key))
    return full


def _is_at(key: str, holder: str) -> bool:
    return key == holder or key.startswith(f"{holder}.")


def _lines_of(asked: Asked, policy: inherited.Policy | None, composer: Composer) -> list[str]:
    """The overrides that a phase is composed of: the command line's that its entry leaves, and its choices."""
    choices = dict(asked.choices)
    keys = _keys(asked, composer.lines)
    if policy is not None and policy.choice in composer.groups["model"] and policy.gives("model", keys):
        choices.setdefault("model", policy.choice)  # whatever model the stage would start from by itself
    left = [
        str(line.input_line)
        for line in _plain(composer.lines)
        if line.key_or_group not in choices and not asked.sets(line.key_or_group, composer.keys_of)
    ]
    return [*left, *(f"{group}={choice}" for group, choice in choices.items())]


def _keys(asked: Asked, lines: Sequence[str]) -> inherited.Keys:
    """What a phase and the command line say, so that it is not taken from elsewhere."""
    return inherited.Keys({*asked.choices, *asked.values}, {line.key_or_group for line in _plain(lines)})


def _plain(lines: Sequence[str]) -> list[Override]:
    """The overrides that name no phase."""
    return OverridesParser.create().parse_overrides([line for line in lines if not is_carried(line)])


def _source(asked: Asked, policies: Sequence[str]) -> str | None:
    """Where a phase starts from: a phase, a run directory, or None for the model as it is configured."""
    source = asked.own["from"]
    if source is None:
        return policies[-1] if policies else None
    return None if source == "none" else str(source)


def _check_shadowed(asked: Sequence[Asked], composer: Composer, mistakes: list[Mistake]) -> None:
    """A value on the command line that every phase sets itself would have no effect at all."""
    for override in _plain(composer.lines) if asked else []:
        key = override.key_or_group
        if all(one.sets(key, composer.keys_of) for one in asked):
            first = asked[0].name
            reason = f"every phase sets its own, so this one would do nothing. Name the phase: phases.{first}.{key}=..."
            mistakes.append(Mistake(key, reason, override.get_value_string()))
