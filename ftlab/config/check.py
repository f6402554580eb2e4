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

from ftlab.config import dataset_names, experiments, foreign_names, launcher, objectives, phases, quoting, search
from ftlab.config.command_line import Arguments, choices_of, first_values
from ftlab.config.compose import compose, group_choices, select_loader, validate
from ftlab.config.keys import takes_list, unknown_key
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Run

_PLUGINS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler")
_OF_SWEEPS = ("sweep.", "hydra.sweep.", "hydra.sweeper.", "hydra/sweeper")  # begin what a single run has no use for


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
    _check_intervals(overrides, loader, config_name, mistakes)
    _check_keys_of_sweeps(overrides, arguments, mistakes)
    if arguments.is_multirun:
        for override in [
            o for o in overrides if o.key_or_group in ("run.name", "run.dir") and not o.is_sweep_override()
        ]:
            reason = "every run of a sweep needs a folder of its own; sweep.name=NAME names that of the sweep"
            mistakes.append(Mistake(str(override.input_line), reason))
    _check_exclusive_keys(overrides, mistakes)
    _check_phases_is_list(overrides, mistakes)
    is_sweep = arguments.is_multirun
    good = None if mistakes else _first_of_all_good(list(_variants(overrides)), loader, config_name, is_sweep)
    if good is not None:
        asked = [str(override.input_line) for override in overrides] if is_sweep else None
        wrong = launcher.mistakes(good, arguments.task, is_sweep)
        if wrong := [*wrong, *_search_mistakes(good, asked)]:
            raise ConfigError(wrong)
        more = _params(overrides, good) if is_sweep else []
        variants = list(_variants([*overrides, *more]))
        if not more or _first_of_all_good(variants, loader, config_name, is_sweep) is not None:
            return good
        overrides += more
    groups = group_choices(loader)
    registered = {*dataset_names.names(arguments.overrides)}
    shown = dataset_names.with_registered(groups, registered)
    chosen = [o for o in overrides if o.key_or_group in groups and _is_known_group(o, groups, shown, mistakes)]
    rest = [o for o in overrides if o.key_or_group not in groups]
    plugins = [o for o in rest if o.key_or_group in _PLUGINS]
    try:
        cfg = compose(first_values([*plugins, *chosen]), loader, config_name)
    except (HydraException, YAMLError) as error:
        raise ConfigError([*mistakes, _hydra_message(error)]) from None
    known = [
        o
        for o in rest
        if not _is_plugin_key(o) and (o.is_hydra_override() or _is_known_key(o, cfg, sorted(groups), mistakes))
    ]
    plugin_keys = [o for o in rest if _is_plugin_key(o) and _is_known_plugin_key(o, cfg, mistakes)]
    try:
        if plugin_keys:
            cfg = compose(first_values([*plugins, *chosen, *plugin_keys]), loader, config_name)
        mistakes += launcher.mistakes(cfg, arguments.task, is_sweep)
        mistakes += _search_mistakes(cfg, [str(o.input_line) for o in overrides] if is_sweep else None)
    except HydraException as error:
        mistakes.append(_hydra_message(error))
    for variant in _variants([*chosen, *known, *plugin_keys]):
        _validate_lines(variant, loader, config_name, mistakes, is_sweep)
    if mistakes:
        told = [_with_whole_numbers(mistake, overrides) for mistake in mistakes]
        raise ConfigError(list({str(mistake): mistake for mistake in told}.values()))
    return compose(first_values(overrides), loader, config_name)


def _first_of_all_good(
    variants: Sequence[list[str]], loader: ConfigLoaderImpl, config_name: str, is_sweep: bool
) -> DictConfig | None:
    """The composed config of the first of some command lines; None where one of them has a mistake."""
    first = None
    try:
        for lines in variants:
            cfg = compose(lines, loader, config_name)
            run = validate(cfg, lines, loader, config_name)
            if is_sweep and _objective_mistakes(cfg, run):
                return None
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


def _is_plugin_key(override: Override) -> bool:
    return launcher.is_key(override) or override.key_or_group.startswith(f"{search.NODE}.")


def _is_known_plugin_key(override: Override, cfg: DictConfig, mistakes: list[Mistake]) -> bool:
    known = launcher.is_known_key if launcher.is_key(override) else search.is_known_key
    return known(override, cfg, mistakes)


def _search_mistakes(cfg: DictConfig, lines: Sequence[str] | None) -> list[Mistake]:
    """:param lines: of a sweep; None of a single run, of which nothing is searched."""
    return [] if lines is None else search.mistakes(cfg, lines)


def _params(overrides: Sequence[Override], cfg: DictConfig) -> list[Override]:
    """What the sweeper's own config has it search, and the command line says nothing of."""
    if not search.is_search(cfg.hydra):
        return []
    given = {override.key_or_group for override in overrides}
    return [one for one in search.parse(search.param_lines(cfg.hydra)) if one.key_or_group not in given]


def _objective_mistakes(cfg: DictConfig, run: Run) -> list[Mistake]:
    """What a sweep is to be judged by, and cannot be. Of one that is judged by nothing there is nothing to say."""
    if run.sweep.objective is None and run.sweep.direction is None and not search.is_search(cfg.hydra):
        return []
    found = objectives.mistakes(run)
    try:
        objectives.read(cfg.hydra, run)
    except ConfigError as error:
        found += error.mistakes
    return found


def _check_intervals(
    overrides: list[Override], loader: ConfigLoaderImpl, config_name: str, mistakes: list[Mistake]
) -> None:
    """Hydra's own sweeper takes one value after the other, of which an interval has no first and no next."""
    intervals = [o for o in overrides if o.is_sweep_override() and not o.is_discrete_sweep()]
    if not intervals or any(override.key_or_group == "hydra/sweeper" for override in overrides):
        return
    try:  # the choice may be an experiment's
        others = first_values([override for override in overrides if override not in intervals])
        if search.is_basic(compose(others, loader, config_name).hydra):
            raise ValueError
    except (HydraException, ValueError, YAMLError):
        for override in intervals:
            overrides.remove(override)
            typed = phases.decode_override(str(override.input_line))
            mistakes.append(Mistake(typed, "an interval needs a sweeper that samples: hydra/sweeper=optuna"))


def _with_whole_numbers(mistake: Mistake, overrides: Sequence[Override]) -> Mistake:
    """What to write for an interval of a key that takes no others."""
    for override in overrides:
        if override.is_interval_sweep() and override.key_or_group == mistake.key and "integer" in mistake.reason:
            whole = f"int({override.get_value_string()})"
            return replace(mistake, reason=f"{mistake.reason}. Of whole numbers: '{mistake.key}={whole}'")
    return mistake


def _check_keys_of_sweeps(overrides: list[Override], arguments: Arguments, mistakes: list[Mistake]) -> None:
    """What is said of a whole sweep: it has one value, and is said to a sweep."""
    for override in [o for o in overrides if o.key_or_group.startswith(("sweep.", "hydra.", "hydra/"))]:
        typed, key = str(override.input_line), override.key_or_group
        if override.is_sweep_override():
            overrides.remove(override)
            values = typed.partition("=")[2]
            one = f"; a value with a comma is {quoting.shell_word(key, values)}" if "/" not in key else ""
            listed = f", a list is '{key}=[{values}]'" if takes_list(key) else ""
            mistakes.append(Mistake(typed, f"is the whole sweep's, and cannot be swept{one}{listed}"))
        elif not arguments.is_multirun and arguments.task == "train" and key.startswith(_OF_SWEEPS):
            overrides.remove(override)
            mistakes.append(Mistake(typed, "is for a sweep: add -m"))


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


def _validate_lines(
    lines: list[str], loader: ConfigLoaderImpl, config_name: str, mistakes: list[Mistake], is_sweep: bool
) -> None:
    try:
        cfg = compose(lines, loader, config_name)
        run = validate(cfg, lines, loader, config_name)
        mistakes.extend(_objective_mistakes(cfg, run) if is_sweep else [])
    except ConfigError as error:
        mistakes.extend(error.mistakes)
        # Rules across groups are looked at only when every value is right in itself: leave the wrong ones out.
        wrong = {mistake.key for mistake in error.mistakes}
        right = [line for line in lines if line.partition("=")[0].lstrip("+") not in wrong]
        if len(right) < len(lines):
            further: list[Mistake] = []
            _validate_lines(right, loader, config_name, further, is_sweep)
            mistakes.extend(mistake for mistake in further if mistake.key not in wrong)
    except HydraException as error:
        mistakes.append(_hydra_message(error))


def _hydra_message(error: Exception) -> Mistake:
    """What Hydra says, without its search path."""
    return Mistake("config", " ".join(str(error).partition("Config search path:")[0].split()))
