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
from ftlab.config.keys import flatten, is_open, unknown_key
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import PhaseEntry, Run

# Where ``phases.NAME.key`` travels through Hydra, which knows no keys inside lists: ``phase_keys.NAME.key``.
CARRIER = "phase_keys"
_CHOICE = "_choice_"  # of a group, beside the values of the same group
_ODD = "odd__"  # begins what stands for a name that Hydra could not read; its bytes follow as hexadecimal digits
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_TYPED = re.compile(r"^\+{0,2}phases\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)
_ENCODED = re.compile(rf"^\+\+{CARRIER}\.([^.=]+)((?:\.[^=]+)?)=(.*)$", re.DOTALL)

# What a phase may not differ in from its run.
_RUN_GROUPS = ("task", "run", "sweep", "tracker", "phase", "phases", "experiment", "hydra")
# What an entry says of the phase itself. Without ``from`` it starts where the last phase that trained a policy ended.
PHASE_KEYS: Mapping[str, Any] = {"name": None, "from": None, "start": "continue"}
# What an entry's choice of a data set leaves to the command line: not which rows, but how they are cut for the model.
_MODEL_KEYS = ("data.max_length", "data.overlap")

Groups = Mapping[str, Sequence[str]]
Compose = Callable[[Sequence[str]], DictConfig]
Validate = Callable[[DictConfig], Run]
KeysOf = Callable[[str, str], Collection[str]]


def encode_override(override: str, groups: Sequence[str]) -> str:
    """``phases.prefer.train.epochs=2`` as Hydra can take it; every other override as it is."""
    found = _TYPED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    if not (_NAME.fullmatch(phase) or (phase.isdecimal() and str(int(phase)) == phase)):
        phase = _ODD + phase.encode().hex()
    return f"++{CARRIER}.{phase}{key}{f'.{_CHOICE}' if key[1:] in groups else ''}={value}"


def decode_override(override: str) -> str:
    """Return the override that :func:`encode_override` was given."""
    found = _ENCODED.match(override)
    if found is None:
        return override
    phase, key, value = found.groups()
    return f"phases.{_phase_label(phase)}{key.removesuffix(f'.{_CHOICE}')}={value}"


def is_encoded(override: str) -> bool:
    return override.startswith(f"++{CARRIER}.")


def _phase_label(phase: str) -> str:
    return bytes.fromhex(phase.removeprefix(_ODD)).decode() if phase.startswith(_ODD) else phase


@dataclass(frozen=True)
class PhaseRequest:
    """The settings of one phase, from its entry and from the command line.

    :param own: of the phase itself, as in ``OWN``. :param choices: of groups.
    :param values: by dotted key, in the order that they apply. :param is_whole: whether all choices are such as exist.
    """

    name: str
    phase_keys: Mapping[str, Any]
    choices: Mapping[str, str]
    values: Mapping[str, Any]
    is_valid: bool = True

    def sets(self, key: str, keys_of: KeysOf) -> bool:
        """Whether it says something of ``key``, itself or by the choice of a group."""
        group, _, inner = key.partition(".")
        by_choice = group in self.choices and inner in keys_of(group, self.choices[group])
        return key in self.choices or key in self.values or (by_choice and key not in _MODEL_KEYS)


@dataclass(frozen=True)
class Composer:
    """The functions and the command line that the configs of phases are composed with.

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

    request: PhaseRequest
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
        raise ConfigError([not_a_list(entries)])
    mistakes: list[Mistake] = []
    asked = [_resolve_choices(one, composer, mistakes) for one in _read_entries(entries, keys, composer, mistakes)]
    _check_shadowed(asked, composer, mistakes)
    found: list[Composed] = []
    policies: list[str] = []
    models: dict[str, inherited.Policy] = {}
    for one in asked:
        source = _start_of_phase(one, policies)
        wrong: list[Mistake] = []
        policy = models.get(source or "") or inherited.read_policy(source)
        composed = _compose_phase(one, source, policy, composer, wrong)
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


def not_a_list(entries: Any) -> Mistake:
    return Mistake("phases", "must be a list: phases=[{name: prefer, stage: dpo}]", entries)


def phase_overrides(keys: Mapping[str, Any], lines: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield what the command line sets in phases, in its order: the name or number, the dotted key, the value."""
    for found in filter(None, map(_ENCODED.match, lines)):
        phase, key, _ = found.groups()
        value: Any = keys
        for part in (phase, *key.split(".")[1:]):
            value = (
                value[part] if isinstance(value, Mapping) and part in value else phase_overrides
            )  # a later line replaced it
        if value is not phase_overrides:
            yield _phase_label(phase), key[1:], value


def folded(cfg: Any, lines: Sequence[str], groups: Collection[str]) -> list[dict[str, Any]] | None:
    """The list of phases with what a good command line says of them in it, to be shown; None where it says nothing.

    :param cfg: plain values, with what the command line says beside the list.
    """
    if not any(map(is_encoded, lines)):
        return None
    entries = [flatten_choices(entry, groups) for entry in cfg["phases"]]
    for named, key, value in phase_overrides(cfg[CARRIER], lines):
        for index, entry in enumerate(entries):
            if named in (entry["name"], str(index)):
                entry.update(flatten_choices({key: value} if key else value, groups))
    return entries


def _read_entries(
    entries: Sequence[Any], keys: Mapping[str, Any], composer: Composer, mistakes: list[Mistake]
) -> Iterator[PhaseRequest]:
    names = [str(entry["name"]) if isinstance(entry, Mapping) and entry.get("name") else "" for entry in entries]
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        mistakes.append(Mistake("phases", "two phases have this name", name))
    given = list(phase_overrides(keys, composer.lines))
    for phase in dict.fromkeys(phase for phase, _, _ in given):
        if phase not in names and phase not in map(str, range(len(names))):
            mistakes.append(unknown_phase(phase, names))
    for index, (name, entry) in enumerate(zip(names, entries)):
        if not _NAME.fullmatch(name):
            reason = "every phase is a mapping with a name of letters, digits, _ and -: {name: prefer, stage: dpo}"
            mistakes.append(Mistake(f"phases.{index}", reason, entry))
            continue
        values = flatten_choices(entry, composer.groups)
        for phase, key, value in given:
            if phase not in (str(index), name):
                continue
            if not key and not isinstance(value, Mapping):
                mistakes.append(Mistake(f"phases.{name}", f"has keys of its own: phases.{name}.KEY=VALUE", value))
                continue
            from_line = flatten_choices({key: value} if key else value, composer.groups)
            if "name" in from_line:
                reason = "a phase is named in its entry, where the list of phases stands; here it would change nothing"
                mistakes.append(Mistake(f"phases.{phase}.name", reason, from_line.pop("name")))
            values.update(from_line)
        wrong = [key for key in values if key.partition(".")[0] in _RUN_GROUPS]
        mistakes += [
            Mistake(f"phases.{name}.{key}", "belongs to the run, not to a phase", values.pop(key)) for key in wrong
        ]
        phase_keys = {key: values.pop(key, default) for key, default in PHASE_KEYS.items()}
        if phase_keys["start"] not in (starts := get_args(PhaseEntry.model_fields["start"].annotation)):
            reason = f"must be one of: {', '.join(starts)}."
            mistakes.append(
                Mistake(f"phases.{name}.start", reason, phase_keys["start"], nearest(str(phase_keys["start"]), starts))
            )
            phase_keys["start"] = PHASE_KEYS["start"]
        choices = {key: str(values.pop(key)) for key in list(values) if key in composer.groups}
        yield PhaseRequest(name, phase_keys, choices, values)


def unknown_phase(phase: str, names: Sequence[str]) -> Mistake:
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    known = numbered or "none; choose phase=NAME, or give phases=[...]"
    return Mistake(f"phases.{phase}", f"no such phase. Phases: {known}.", None, nearest(phase, names))


def _resolve_choices(request: PhaseRequest, composer: Composer, mistakes: list[Mistake]) -> PhaseRequest:
    """``request`` with its choices judged, and one of a registered data set turned into what the group knows.

    Where a choice is wrong, what is said of its group is left out, so that the rest can be judged.
    """
    choices, values = dict(request.choices), dict(request.values)
    for group, choice in request.choices.items():
        known = composer.groups[group]
        if choice in known:
            continue
        registry = [f"data.registry={values['data.registry']}"] if "data.registry" in values else []
        if group == "data" and choice in dataset_names.names([*composer.lines, *registry]):
            choices["data"] = dataset_names.CHOICE
            values = {"data.name": choice, **values}
            continue
        reason = f"no such choice. Choices: {', '.join(known)}."
        mistakes.append(Mistake(f"phases.{request.name}.{group}", reason, choice, nearest(choice, known)))
        del choices[group]
        values = {key: value for key, value in values.items() if not key.startswith(f"{group}.")}
    return replace(request, choices=choices, values=values, is_valid=choices.keys() == request.choices.keys())


def flatten_choices(given: Mapping[str, Any], groups: Collection[str]) -> dict[str, Any]:
    """Flatten a mapping to dotted keys and values; the choice of a group is under the group's name."""
    found = flatten(given, keep_empty=lambda key: key not in groups)
    return {key.removesuffix(f".{_CHOICE}"): value for key, value in found}


def _compose_phase(
    request: PhaseRequest,
    source: str | None,
    policy: inherited.Policy | None,
    composer: Composer,
    mistakes: list[Mistake],
) -> Composed | None:
    """None where it does not come to a config that is right."""
    lines = _phase_lines(request, policy, composer)
    try:
        cfg = composer.compose(lines)
    except HydraException as error:
        reason = " ".join(str(error).partition("Config search path:")[0].split())
        mistakes.append(Mistake("config", reason))
        return None
    OmegaConf.set_struct(cfg, False)
    cfg.phases = []
    OmegaConf.set_struct(cfg, True)
    given = inherited.apply(cfg, policy, _given_keys(request, composer.lines))
    values = _known_values(request, cfg, mistakes)
    full = _merge(cfg, values)
    try:
        run = composer.validate(full)
    except ConfigError as error:
        mistakes += _check_values(error.mistakes, request, values, cfg, composer.validate)
        return None
    config = run.model_dump(mode="json")
    entry = PhaseEntry(name=request.name, source=source, start=request.phase_keys["start"], config=config)
    return Composed(request, entry, lines, given, full)


def _check_values(
    wrong: Sequence[Mistake], request: PhaseRequest, values: Mapping[str, Any], cfg: DictConfig, validate: Validate
) -> list[Mistake]:
    """What is wrong with a phase's values, and what would be without those that are wrong in themselves."""
    right = {key: value for key, value in values.items() if not any(_is_at(mistake.key, key) for mistake in wrong)}
    found = list(wrong)
    if len(right) < len(values):
        try:
            validate(_merge(cfg, right))
        except ConfigError as error:
            found += [mistake for mistake in error.mistakes if mistake.key not in {one.key for one in wrong}]
    # Without its choices a phase is not what was meant: rules are not looked at, only values as they are.
    return [one for one in found if request.is_valid or any(_is_at(one.key, key) for key in values)]


def _known_values(request: PhaseRequest, cfg: DictConfig, mistakes: list[Mistake]) -> dict[str, Any]:
    """Those of a phase's values whose keys there are."""
    found = {}
    for key, value in request.values.items():
        unknown = unknown_key(key, cfg, (), _RUN_GROUPS)
        if unknown is not None:
            near = [f"phases.{request.name}.{name}" for name in unknown.suggestions]
            mistakes.append(Mistake(key, unknown.reason, value, near))
        elif not is_open(key) and isinstance(OmegaConf.select(cfg, key), DictConfig) and not isinstance(value, Mapping):
            mistakes.append(Mistake(key, f"has keys of its own: phases.{request.name}.{key}.KEY=VALUE", value))
        else:
            found[key] = value
    return found


def _merge(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    full = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(full, key, value, merge=False, force_add=is_open(key))
    return full


def _is_at(key: str, holder: str) -> bool:
    return key == holder or key.startswith(f"{holder}.")


def _phase_lines(request: PhaseRequest, policy: inherited.Policy | None, composer: Composer) -> list[str]:
    """The overrides that a phase is composed of: the command line's that its entry leaves, and its choices."""
    choices = dict(request.choices)
    keys = _given_keys(request, composer.lines)
    if policy is not None and policy.choice in composer.groups["model"] and policy.supplies("model", keys):
        choices.setdefault("model", policy.choice)  # whatever model the stage would start from by itself
    left = [
        str(line.input_line)
        for line in _without_phase_overrides(composer.lines)
        if line.key_or_group not in choices and not request.sets(line.key_or_group, composer.keys_of)
    ]
    return [*left, *(f"{group}={choice}" for group, choice in choices.items())]


def _given_keys(request: PhaseRequest, lines: Sequence[str]) -> inherited.GivenKeys:
    """What a phase and the command line say, so that it is not taken from elsewhere."""
    return inherited.GivenKeys(
        {*request.choices, *request.values}, {line.key_or_group for line in _without_phase_overrides(lines)}
    )


def _without_phase_overrides(lines: Sequence[str]) -> list[Override]:
    """The overrides that name no phase."""
    return OverridesParser.create().parse_overrides([line for line in lines if not is_encoded(line)])


def _start_of_phase(request: PhaseRequest, policies: Sequence[str]) -> str | None:
    """Where a phase starts from: a phase, a run directory, or None for the model as it is configured."""
    source = request.phase_keys["from"]
    if source is None:
        return policies[-1] if policies else None
    return None if source == "none" else str(source)


def _check_shadowed(requests: Sequence[PhaseRequest], composer: Composer, mistakes: list[Mistake]) -> None:
    """A value on the command line that every phase sets itself would have no effect at all."""
    for override in _without_phase_overrides(composer.lines) if requests else []:
        key = override.key_or_group
        if all(one.sets(key, composer.keys_of) for one in requests):
            first = requests[0].name
            reason = f"every phase sets its own, so this one would do nothing. Name the phase: phases.{first}.{key}=..."
            mistakes.append(Mistake(key, reason, override.get_value_string()))
