"""Compose with Hydra, resolve, and validate against the schema."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import ConfigDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from ftlab.config import experiments, foreign_names, model_folder, phases, pilots
from ftlab.config.keys import flatten
from ftlab.config.loader import ComposeOnceLoader
from ftlab.config.paths import config_dir, only_with, shipped
from ftlab.config.rules import cross_group_mistakes
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import PhaseEntry, Run

# What pydantic puts into a location for the members of a plain union: ``literal['auto']``, ``constrained-int``.
_UNION_TAG = re.compile(r"^(?:[a-z]+\[.*\]|constrained-\w+)$")

_ELSEWHERE = re.compile(r"\$\{(?!shipped:|only_with:)")  # begins a value that is another key's

OmegaConf.register_new_resolver("shipped", shipped, replace=True)
OmegaConf.register_new_resolver("only_with", only_with, replace=True)


def config_loader(extra_dir: str | None = None) -> ConfigLoaderImpl:
    """Hydra's loader over ``conf/`` and, before it, the user's ``--config-dir``, whose files may change meanwhile."""
    return _shipped_loader() if extra_dir is None else _loader(extra_dir)


@functools.cache
def _shipped_loader() -> ConfigLoaderImpl:
    return _loader(None)


def _loader(extra_dir: str | None) -> ConfigLoaderImpl:
    search_path = create_config_search_path(str(config_dir()))
    if extra_dir is not None:
        search_path.prepend("command-line", f"file://{extra_dir}", anchor=SearchPathQuery(provider="schema"))
    return ComposeOnceLoader(search_path)


def select_loader(config_dir: str | None, config_name: str | None) -> tuple[ConfigLoaderImpl, str]:
    """The config loader and the root config's name that the flags ``--config-dir`` and ``--config-name`` choose.

    :raises ConfigError: ``config_dir`` is no folder.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError([Mistake("--config-dir", "is no folder", config_dir)])
    loader = config_loader(str(Path(config_dir).resolve()) if config_dir else None)
    return loader, config_name or "config"


def compose(
    overrides: Sequence[str] = (), loader: ConfigLoaderImpl | None = None, config_name: str = "config"
) -> DictConfig:
    """The composed config, unresolved and unvalidated; Hydra's own node included.

    :raises hydra.errors.HydraException: at the first thing wrong.
    """
    loader = loader or config_loader()
    try:
        cfg = loader.load_configuration(
            config_name=config_name, overrides=list(overrides), run_mode=RunMode.RUN, from_shell=False
        )
    except RecursionError:
        raise ConfigCompositionException(_endless(overrides, loader)) from None
    assert isinstance(cfg, DictConfig)
    return cfg


def read(lines: Sequence[str], loader: ConfigLoaderImpl | None = None, config_name: str = "config") -> Run:
    """The run that ``lines`` ask for, its phases composed.

    :raises ConfigError: every mistake at once. :raises hydra.errors.HydraException: what cannot even be composed.
    """
    loader = loader or config_loader()
    return validate(compose(lines, loader, config_name), lines, loader, config_name)


def _endless(overrides: Sequence[str], loader: ConfigLoaderImpl) -> str:
    """What there is to say of choices whose defaults lists lead back to themselves."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        for choice in _options(override):
            circle = _circle(loader, [f"{override.key_or_group.partition('@')[0]}/{choice}"])
            if circle:
                files = " -> ".join(f"{path}.yaml" for path in circle)
                return f"{files}: its defaults list leads back to the file itself. Take the last of them out."
    return "a defaults list of a config leads back to the file itself"


def _options(override: Override) -> list[str]:
    value = override.value()
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _circle(loader: ConfigLoaderImpl, way: list[str]) -> list[str] | None:
    """The files of a circle of defaults lists, from one of them back to it. :param way: that led there."""
    loaded = loader.repository.load_config(way[-1])
    for default in (loaded.defaults_list if loaded is not None else None) or ():
        if default.is_self():
            continue
        default.update_parent(way[-1].rpartition("/")[0], "")
        if isinstance(default, ConfigDefault):
            following = [default.get_config_path()]
        else:
            following = [f"{default.get_group_path()}/{name}" for name in _names(default)]
        for path in following:
            circle = [*way[way.index(path) :], path] if path in way else _circle(loader, [*way, path])
            if circle:
                return circle
    return None


def _names(default: Any) -> list[str]:
    return [str(name) for name in (default.value if isinstance(default.value, list) else [default.value])]


def group_choices(loader: ConfigLoaderImpl) -> dict[str, list[str]]:
    """The choices of every config group."""
    return {
        group: [
            option
            for option in loader.get_group_options(group, results_filter=ObjectType.CONFIG)
            if not option.startswith("_")
        ]
        for group in loader.list_groups("")
    }


def composer(lines: Sequence[str], loader: ConfigLoaderImpl, config_name: str) -> phases.Composer:
    """Return the :class:`ftlab.config.phases.Composer` for the phases of a command line."""
    one = functools.partial(compose, loader=loader, config_name=config_name)
    return phases.Composer(lines, group_choices(loader), one, validate, functools.partial(_choice_keys, loader))


def _choice_keys(loader: ConfigLoaderImpl, group: str, choice: str) -> set[str]:
    """The keys of a group that a choice itself gives values: not null, and not what it takes from elsewhere."""
    loaded = loader.repository.load_config(f"{group}/{choice}")
    assert loaded is not None, "choices are judged before"
    values: Any = OmegaConf.to_container(loaded.config, resolve=False)
    of_group = values.get(group, {}) if loaded.header["package"] == "_global_" else values
    found = {key for key, value in flatten(of_group) if value is not None and not _ELSEWHERE.match(str(value))}
    for default in loaded.defaults_list or ():
        path = default.path if isinstance(default, ConfigDefault) else None
        if path is not None and path.isidentifier() and path != "default" and not path.startswith("_"):
            found |= _choice_keys(loader, group, path)  # another choice of the group, that this one begins with
    return found


def override_keys(lines: Sequence[str]) -> list[str]:
    """The keys that overrides set, of a mapping those within it."""
    mappings = [line for line in lines if line.partition("=")[2].startswith("{")]  # parsing takes time, and few need it
    within = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(mappings)}
    typed = [line.partition("=")[0].lstrip("+") for line in lines]
    return [key for name in typed for key in (dict(flatten({name: within[name]})) if name in within else (name,))]


def of_run(cfg: DictConfig, lines: Sequence[str]) -> DictConfig:
    """The same config without Hydra's node, its model as the folder at ``model.path`` has it.

    :raises ConfigError: there is no such model, or it is none for this recipe.
    """
    cfg = cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    if wrong := model_folder.apply(cfg, override_keys(lines)):
        raise ConfigError(wrong)
    return cfg


def validate(
    cfg: DictConfig,
    lines: Sequence[str] | None = None,
    loader: ConfigLoaderImpl | None = None,
    config_name: str = "config",
) -> Run:
    """Resolve and validate.

    :param lines: the overrides that ``cfg`` was composed of, of which its phases are composed too.
    :raises ConfigError: every mistake at once, each with its key, value and what is allowed.
    """
    cfg = of_run(cfg, lines or ())
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([Mistake(str(error.full_key or "config"), str(error).splitlines()[0])]) from None
    entries, of_phases = values.pop("phases"), values.pop(phases.CARRIER, {})
    wrong_phases: tuple[Mistake, ...] = ()
    curriculum: tuple[PhaseEntry, ...] = ()
    if entries or of_phases:
        assert lines is not None, "phases are composed of the same overrides"
        try:
            composed = phases.expand(entries, of_phases, composer(lines, loader or config_loader(), config_name))
            curriculum = tuple(phase.entry for phase in composed)
        except ConfigError as error:
            wrong_phases = error.mistakes
    mistakes = []
    try:
        run = Run.model_validate({**values, "phases": curriculum})
        if run.pilot.steps is not None or run.pilot.full is not None:
            run = pilots.shorten(run, _values_of(loader or config_loader(), "quant/nf4"))
        if not wrong_phases:
            mistakes = [Mistake(key, reason, value) for key, value, reason in cross_group_mistakes(run)]
    except ValidationError as error:
        mistakes = list(_one_for_each_key(error.errors()))
    said = {(mistake.key, str(mistake.value)) for mistake in mistakes}  # of the run, and so of every phase
    mistakes += [m for m in wrong_phases if (m.key.split(".", 2)[-1], str(m.value)) not in said]
    if mistakes:
        raise ConfigError(mistakes)
    return run


def _values_of(loader: ConfigLoaderImpl, choice: str) -> dict[str, Any]:
    """What a choice of a group gives, be it chosen or not."""
    loaded = loader.repository.load_config(choice)
    assert loaded is not None, "it is shipped"
    values: Any = OmegaConf.to_container(loaded.config)
    return dict(values)


def _one_for_each_key(details: Sequence[Any]) -> Iterator[Mistake]:
    """What is neither one of some words nor a list is one mistake, and not one of each kind."""
    lists = {_mistake(detail).key for detail in details if detail["type"] == "tuple_type"}
    words = {_mistake(detail).key for detail in details if detail["type"] == "literal_error"}
    for detail in details:
        mistake = _mistake(detail)
        if mistake.key not in lists & words:
            yield mistake
        elif detail["type"] == "literal_error":
            as_list = f", or a list: {mistake.key}=[{mistake.value}]"
            reason = mistake.reason if mistake.suggestions else f"{mistake.reason.rstrip('.')}{as_list}"
            yield replace(mistake, reason=reason)


def _mistake(detail: Any) -> Mistake:
    """One pydantic error in the words of a config: dotted key, what is allowed, near names."""
    path, model = _walk(detail["loc"])
    key = ".".join(path)
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        if key == "experiment" and isinstance(value, dict):
            return Mistake(key, experiments.misplaced_values(value))
        if (line := foreign_names.translation(key, str(value))) is not None:
            return Mistake(key, f"{line}.", value)
        known = list(model.model_fields) if model else []
        return Mistake(key, f"no such key. Known: {', '.join(known)}.", value, nearest(path[-1], known))
    if detail["type"] == "missing":
        return Mistake(key, "is missing; it has no default")
    if detail["type"] == "literal_error":
        allowed = [part.strip("' ") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        allowed = [part.lower() if part in ("True", "False") else part for part in allowed]  # as YAML writes them
        return Mistake(key, f"must be one of: {', '.join(allowed)}.", value, nearest(str(value), allowed))
    if detail["type"] == "tuple_type":
        only = "" if value is None or isinstance(value, bool) else value
        return Mistake(key, f"must be a list: {key}=[{only}]")
    if detail["type"] == "model_attributes_type":
        how = f"on the command line {key}={value}, in an experiment 'defaults: [override /{key}: {value}]'"
        return Mistake(key, f"is a group: choose from it, {how}", value)
    if detail["type"] == "model_type":
        return Mistake(key, f"has keys of its own: {key}.KEY=VALUE", value)
    if detail["type"] == "value_error":
        return Mistake(key, str(detail["ctx"]["error"]), value if value != () else "[]")
    message = detail["msg"].replace("Input should be", "must be").split(", unable to parse")[0]
    return Mistake(key, message, value)


def _walk(location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel] | None]:
    """Dotted path of a pydantic location, without its union tags, and the model that holds the last part."""
    path: list[str] = []
    model: type[BaseModel] | None = Run
    holder: type[BaseModel] | None = Run
    for part in location:
        if model is not None and part in model.model_fields:
            holder = model
            path.append(str(part))
            model = _model_of(model.model_fields[str(part)].annotation, None)
        elif isinstance(part, str) and (member := _member(path, part)) is not None:
            model = holder = member
        elif _UNION_TAG.match(str(part)):
            continue
        else:
            holder = model
            path.append(str(part))
            model = None
    return path, holder


def _member(path: list[str], tag: str) -> type[BaseModel] | None:
    """The member of a discriminated union (task, stage) that ``tag`` names."""
    return _model_of(Run.model_fields[path[0]].annotation, tag) if len(path) == 1 else None


def _model_of(annotation: Any, tag: str | None) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.model_fields.get("name")
        return annotation if tag is None or (name and tag in get_args(name.annotation)) else None
    if get_origin(annotation) is None or (tag is None and len(get_args(annotation)) != 1):
        return None
    for argument in get_args(annotation):
        found = _model_of(argument, tag)
        if found is not None:
            return found
    return None
