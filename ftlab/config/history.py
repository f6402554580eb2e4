"""Where a value comes from: every file and override that set it, in the order in which they did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from ftlab.config import model_folder, phases
from ftlab.config.compose import compose, composer, override_keys
from ftlab.config.keys import comment_on
from ftlab.errors import ConfigError, Mistake, nearest

_ABSENT = object()
COMMAND_LINE = "command line"  # where a value stands that was typed
_REFERENCE = re.compile(r"\$\{([^${}:]+)\}")
_SELECTED = re.compile(r"\$\{oc\.select:([^${},]+),[^}]*\}")


@dataclass(frozen=True)
class Setting:
    """:param source: ``conf/stage/sft.yaml:9`` or ``command line``. :param chosen: the group choice that brought the
    file in. :param comment: what the file says about the key."""

    value: Any
    source: str
    choice: str | None = None
    comment: str | None = None


@dataclass(frozen=True)
class Provenance:
    """:param settings: in the order of precedence; the last one stands. :param references: the keys that the standing
    value is interpolated from, each with its own provenance."""

    key: str
    value: Any
    settings: tuple[Setting, ...]
    references: tuple[Provenance, ...]


def trace(key: str, overrides: Sequence[str], loader: ConfigLoaderImpl, config_name: str) -> Provenance:
    """:raises ConfigError: no such key."""
    cfg = compose(overrides, loader, config_name)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    model_folder.apply(cfg, override_keys(overrides))
    if key.startswith("phases."):
        return _trace_of_phase(key, cfg, overrides, loader, config_name)
    _check_exists(key, cfg, "")
    defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN)
    return _trace(key, cfg, defaults.defaults, overrides, loader)


def _trace(key: str, cfg: Any, defaults: Any, overrides: Sequence[str], loader: ConfigLoaderImpl) -> Provenance:
    settings = [
        found for default in defaults for found in [_setting_in_file(key, default, loader)] if found is not None
    ]
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        inside = key.removeprefix(override.key_or_group).removeprefix(".")
        if not override.is_delete() and key in (override.key_or_group, f"{override.key_or_group}.{inside}"):
            value = _nested_value(override.value(), inside.split(".") if inside else [])
            settings += [] if value is _ABSENT else [Setting(value, COMMAND_LINE)]
    standing = settings[-1].value if settings else None
    pointed = _references(standing, cfg)
    references = tuple(_trace(reference, cfg, defaults, overrides, loader) for reference in pointed)
    value = OmegaConf.select(cfg, key)
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    if settings and not references and key.startswith("model.") and cfg.model.recipe and plain != standing:
        settings.append(Setting(plain, f"the model's folder, {cfg.model.path}"))
    return Provenance(key, plain, tuple(settings), references)


def _trace_of_phase(
    key: str, cfg: Any, overrides: Sequence[str], loader: ConfigLoaderImpl, config_name: str
) -> Provenance:
    """Of ``phases.NAME.KEY``: the groups, the command line, the policy before, the entry, and what names the phase."""
    _, named, *rest = key.split(".", 2)
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    composed = phases.expand(values["phases"], values.get(phases.CARRIER, {}), composer(overrides, loader, config_name))
    names = [phase.entry.name for phase in composed]
    if named not in (*names, *map(str, range(len(names)))):
        raise ConfigError([phases.unknown_phase(named, names)])
    phase = composed[names.index(named) if named in names else int(named)]
    if not rest:
        raise ConfigError([Mistake(key, f"which of its keys? For example: {key}.train.learning_rate")])
    inner = rest[0]
    if inner in phases.PHASE_KEYS:
        value = {"name": phase.entry.name, "from": phase.entry.source, "start": phase.entry.start}[inner]
        found = Provenance(inner, value, (), ())
    else:
        OmegaConf.set_struct(phase.cfg, False)
        phase.cfg.pop("hydra")
        model_folder.apply(phase.cfg, override_keys(phase.lines))
        _check_exists(inner, phase.cfg, f"phases.{named}.")
        defaults = loader.compute_defaults_list(config_name, list(phase.lines), RunMode.RUN).defaults
        found = _trace(inner, phase.cfg, defaults, [line for line in phase.lines if line in overrides], loader)
    given = {inner: phase.inherited[inner]} if inner in phase.inherited else {}
    own = [Setting(value, f"{phase.entry.source}, which it starts from") for value in given.values()]
    place = names.index(phase.entry.name)
    of_entry = phases.flatten_choices(raw["phases"][place], loader.list_groups(""))
    if inner in of_entry:
        own.append(Setting(of_entry[inner], _entry_location(place, inner, overrides, loader, config_name)))
    for typed, of_phase, value in phases.phase_overrides(raw.get(phases.CARRIER, {}), overrides):
        of_line = phases.flatten_choices({of_phase: value} if of_phase else value, loader.list_groups(""))
        if typed in (phase.entry.name, str(place)) and inner in of_line:
            own.append(Setting(of_line[inner], COMMAND_LINE))
    settings = (*found.settings, *own)
    return replace(found, key=key, settings=settings, references=() if own else found.references)


def _entry_location(place: int, key: str, overrides: Sequence[str], loader: ConfigLoaderImpl, config_name: str) -> str:
    """Where the entry of a phase has a key: file and line, or the command line."""
    if any(override.key_or_group == "phases" for override in OverridesParser.create().parse_overrides(list(overrides))):
        return COMMAND_LINE
    defaults = loader.compute_defaults_list(config_name, list(overrides), RunMode.RUN).defaults
    *_, (setting, file) = [
        (setting, _config_file(default, loader)[1])
        for default in defaults
        for setting in [_setting_in_file("phases", default, loader)]
        if setting is not None
    ]
    root: Any = yaml.compose(file.read_text(encoding="utf-8"))
    node = next(value for name, value in root.value if name.value == "phases").value[place]
    return f"{setting.source.rpartition(':')[0]}:{_line_in(node, key) + 1}"


def _line_in(node: yaml.MappingNode, key: str) -> int:
    """The line, from 0, of a dotted key of which any part may be dotted itself, or come from another mapping."""
    for name, value in node.value:
        if key == name.value:
            return name.start_mark.line
        if key.startswith(f"{name.value}.") and isinstance(value, yaml.MappingNode):
            return _line_in(value, key.removeprefix(f"{name.value}."))
    merged = [value for name, value in node.value if name.value == "<<" and isinstance(value, yaml.MappingNode)]
    return _line_in(merged[0], key) if merged else node.start_mark.line


def _setting_in_file(key: str, default: Any, loader: ConfigLoaderImpl) -> Setting | None:
    """What one file of the defaults list sets ``key`` to."""
    if default.config_path is None or default.config_path.startswith("hydra"):
        return None
    loaded = loader.repository.load_config(default.config_path)
    if loaded is None:
        return None
    package = f"{default.package}." if default.package else ""
    if not key.startswith(package):
        return None
    inside = key.removeprefix(package)
    raw = OmegaConf.to_container(loaded.config, resolve=False)
    value = _nested_value(raw, inside.split("."))
    if value is _ABSENT:
        return None
    folder, file = _config_file(default, loader)
    line, comment = _line(file, inside.split("."))
    group, _, choice = default.config_path.rpartition("/")
    chosen = f"{group}={choice}" if group and not choice.startswith("_") else None
    return Setting(value, f"{Path(folder.name) / file.relative_to(folder)}:{line}", chosen, comment)


def _config_file(default: Any, loader: ConfigLoaderImpl) -> tuple[Path, Path]:
    """The folder of configs that a file of the defaults list is from, and the file."""
    loaded = loader.repository.load_config(default.config_path)
    assert loaded is not None
    folder = next(Path(source.path) for source in loader.repository.get_sources() if source.provider == loaded.provider)
    return folder, folder / f"{default.config_path}.yaml"


def _nested_value(values: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if not isinstance(values, dict) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _line(file: Path, parts: Sequence[str]) -> tuple[int, str | None]:
    """The line that sets a key, from 1, and the comment on it."""
    text = file.read_text(encoding="utf-8")
    node = yaml.compose(text)
    mark = node.start_mark.line if node else 0
    for part in parts:
        assert isinstance(node, yaml.MappingNode)
        name, node = next((k, v) for k, v in node.value if k.value == part)
        mark = name.start_mark.line
    return mark + 1, comment_on(text.splitlines(), mark) or None


def _references(value: Any, cfg: Any) -> list[str]:
    """Keys that a value's interpolations take; of ``${oc.select:KEY,DEFAULT}`` the key where it has a value."""
    if not isinstance(value, str):
        return []
    return [*_REFERENCE.findall(value), *(k for k in _SELECTED.findall(value) if OmegaConf.select(cfg, k) is not None)]


def _check_exists(key: str, cfg: Any, prefix: str) -> None:
    """:param prefix: before the key as it was typed."""
    if _nested_value(OmegaConf.to_container(cfg, resolve=True), key.split(".")) is _ABSENT:
        known = _dotted(OmegaConf.to_container(cfg, resolve=False), "")
        last = {name.split(".")[-1]: name for name in known}
        near = nearest(key, known) or [last[name] for name in nearest(key.split(".")[-1], last)]
        near = [f"{prefix}{name}" for name in near]
        raise ConfigError([Mistake("key", "no such key. --cfg job shows them all.", f"{prefix}{key}", near)])


def _dotted(values: Any, prefix: str) -> list[str]:
    if not isinstance(values, dict):
        return []
    return [name for key, value in values.items() for name in [f"{prefix}{key}", *_dotted(value, f"{prefix}{key}.")]]
