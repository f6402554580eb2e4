"""Find every mistake of a command line before Hydra stops at the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from yaml import YAMLError

from ftlab.config import dataset_names, experiments, foreign_names, launcher, phases, quoting
from ftlab.config.command_line import Arguments, choices_of, first_values
from ftlab.config.compose import compose, group_choices, read, select_loader, validate
from ftlab.config.keys import takes_list, unknown_key
from ftlab.errors import ConfigError, Mistake, nearest


def check(arguments: Arguments) -> DictConfig:
    """Check group choices, keys and values of a command line, and every value of a sweep.

    A good command line costs one composition. For a bad one the groups are composed first, so that a key is judged
    against the stage and model that were really chosen.

    :return: the composed config, of a sweep that of its first job; unresolved.
    :raises ConfigError: every mistake at once.
    """
    loader, config_name = select_loader(arguments.config_dir, arguments.config_name)
    mistakes: list[Mistake] = []
    overrides = _parse(arguments.overrides, mistakes)
    if not arguments.is_multirun:
        for override in [o for o in overrides if o.is_sweep_override()]:
            overrides.remove(override)
            typed = phases.decode_override(str(override.input_line))
            key, _, values = typed.partition("=")
            one = f"; one list is '{key}=[{values}]'" if takes_list(key) else ""
            one = f": {quoting.shell_word(key, values)}" if quoting.is_path_key(key) else one
            mistakes.append(Mistake(typed, f"several values are a sweep: add -m, or quote the value{one}"))
    if not any(override.key_or_group == "hydra/sweeper" for override in overrides):
        for override in [o for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]:
            overrides.remove(override)
            typed = phases.decode_override(str(override.input_line))
            mistakes.append(Mistake(typed, "an interval needs a sweeper that samples: hydra/sweeper=..."))
    if arguments.is_multirun:
        for override in [
            o for o in overrides if o.key_or_group in ("run.name", "run.dir") and not o.is_sweep_override()
        ]:
            reason = "every run of a sweep needs a folder of its own; leave it out, or sweep it with hydra.sweep.dir"
            mistakes.append(Mistake(str(override.input_line), reason))
    _check_exclusive_keys(overrides, mistakes)
    _check_phases_is_list(overrides, mistakes)
    if not mistakes and (good := _first_of_all_good(list(_variants(overrides)), loader, config_name)) is not None:
        if wrong := launcher.mistakes(good, arguments.task, arguments.is_multirun):
            raise ConfigError(wrong)
        return good
    groups = group_choices(loader)
    registered = {*dataset_names.names(arguments.overrides)}
    shown = dataset_names.with_registered(groups, registered)
    chosen = [o for o in overrides if o.key_or_group in groups and _is_known_group(o, groups, shown, mistakes)]
    rest = [o for o in overrides if o.key_or_group not in groups]
    launchers = [o for o in rest if o.key_or_group == launcher.GROUP]
    try:
        cfg = compose(first_values([*launchers, *chosen]), loader, config_name)
    except (HydraException, YAMLError) as error:
        raise ConfigError([*mistakes, _hydra_message(error)]) from None
    known = [
        o
        for o in rest
        if not launcher.is_key(o) and (o.is_hydra_override() or _is_known_key(o, cfg, sorted(groups), mistakes))
    ]
    launcher_keys = [o for o in rest if launcher.is_key(o) and launcher.is_known_key(o, cfg, mistakes)]
    try:
        if launcher_keys:
            cfg = compose(first_values([*launchers, *chosen, *launcher_keys]), loader, config_name)
        mistakes += launcher.mistakes(cfg, arguments.task, arguments.is_multirun)
    except HydraException as error:
        mistakes.append(_hydra_message(error))
    for variant in _variants([*chosen, *known]):
        _validate_lines(variant, loader, config_name, mistakes)
    if mistakes:
        raise ConfigError(list({str(mistake): mistake for mistake in mistakes}.values()))
    return compose(first_values(overrides), loader, config_name)


def _first_of_all_good(variants: Sequence[list[str]], loader: ConfigLoaderImpl, config_name: str) -> DictConfig | None:
    """The composed config of the first of some command lines; None where one of them has a mistake."""
    first = None
    try:
        for lines in variants:
            cfg = compose(lines, loader, config_name)
            validate(cfg, lines, loader, config_name)
            first = first if first is not None else cfg
    except (HydraException, ValueError, YAMLError):
        return None
    return first


def _parse(lines: Sequence[str], mistakes: list[Mistake]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for line in lines:
        try:
            parsed.append(parser.parse_override(line))
        except HydraException as error:
            reason = str(error).splitlines()[0].rstrip(":")
            key, _, value = phases.decode_override(line).partition("=")
            advice = f"; quote special characters: {quoting.shell_word(key, value)}"
            mistakes.append(Mistake(f"{key}={value}", f"not understood ({reason}){advice}"))
    return parsed


def _is_known_group(
    override: Override,
    groups: Mapping[str, Sequence[str]],
    shown: Mapping[str, Sequence[str]],
    mistakes: list[Mistake],
) -> bool:
    """:param shown: the choices that are told: of data also those of the registry, which have no file in the group."""
    options, listed = groups[override.key_or_group], shown[override.key_or_group]
    values = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    wrong = [value for value in values if value is None or str(value) not in options]
    for value in wrong:
        hint = experiments.location_hint(str(value)) if override.key_or_group == "experiment" else None
        reason = hint or f"no such choice. Choices: {', '.join(listed)}."
        near = [] if hint else nearest(str(value), listed)
        mistakes.append(Mistake(override.key_or_group, reason, "null" if value is None else value, near))
    return not wrong


def _is_known_key(override: Override, cfg: DictConfig, groups: Sequence[str], mistakes: list[Mistake]) -> bool:
    if "/" in override.key_or_group or override.key_or_group.partition(".")[0] == phases.CARRIER:
        return True  # a phase's keys are judged when it is composed
    unknown = unknown_key(override.key_or_group, cfg, groups)
    if unknown is not None:
        value = override.get_value_string() if override.value_type is not None else None
        foreign = foreign_names.translation(override.key_or_group, value)
        if foreign is not None:
            unknown = replace(unknown, reason=f"{foreign}.", suggestions=())
        mistakes.append(replace(unknown, key=override.get_key_element(), value=value))
    return unknown is None


def _check_phases_is_list(overrides: list[Override], mistakes: list[Mistake]) -> None:
    """Hydra would not merge anything else with what is there, and say no more than that."""
    for override in [o for o in overrides if o.key_or_group == "phases" and not o.is_sweep_override()]:
        if isinstance(override.value(), dict):
            overrides.remove(override)
            mistakes.append(phases.not_a_list(override.get_value_string()))


def _check_exclusive_keys(overrides: Sequence[Override], mistakes: list[Mistake]) -> None:
    keys = {override.key_or_group for override in overrides if override.value() is not None}
    if {"train.global_batch_size", "train.gradient_accumulation_steps"} <= keys:
        mistakes.append(
            Mistake(
                "train.global_batch_size",
                "give it or train.gradient_accumulation_steps; the other follows from the devices there are",
            )
        )


def _variants(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Command lines that between them contain every value of every sweep: a sum of lengths, not their product."""
    yield first_values(overrides)
    for override in overrides:
        for line in choices_of(override)[1:]:
            yield [line, *first_values([other for other in overrides if other is not override])]


def _validate_lines(lines: list[str], loader: ConfigLoaderImpl, config_name: str, mistakes: list[Mistake]) -> None:
    try:
        read(lines, loader, config_name)
    except ConfigError as error:
        mistakes.extend(error.mistakes)
        # Rules across groups are looked at only when every value is right in itself: leave the wrong ones out.
        wrong = {mistake.key for mistake in error.mistakes}
        right = [line for line in lines if line.partition("=")[0].lstrip("+") not in wrong]
        if len(right) < len(lines):
            further: list[Mistake] = []
            _validate_lines(right, loader, config_name, further)
            mistakes.extend(mistake for mistake in further if mistake.key not in wrong)
    except HydraException as error:
        mistakes.append(_hydra_message(error))


def _hydra_message(error: Exception) -> Mistake:
    """What Hydra says, without its search path."""
    return Mistake("config", " ".join(str(error).partition("Config search path:")[0].split()))
