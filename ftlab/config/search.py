"""``hydra/sweeper=optuna``: its keys, and what there is to choose from, as Hydra's command line has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from ftlab.config import phases
from ftlab.config.keys import flatten
from ftlab.config.launcher import validated
from ftlab.config.paths import group_names
from ftlab.config.quoting import quote
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema.base import Group, Positive

TARGET = "hydra_plugins.ftlab_sweepers.optuna.OptunaSweeper"
NODE = "hydra.sweeper"
_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_LOG = "log"  # the tag of what is drawn by its logarithm
_OF_HYDRA = ("_target_", "_recursive_")

Value = str | int | float | bool | None


class Options(Group):
    """The keys of ``hydra.sweeper``. The values are those of ``conf/hydra/sweeper/optuna.yaml``."""

    direction: Any
    storage: Annotated[str, Field(min_length=1)] | None
    study_name: Annotated[str, Field(min_length=1)] | None
    n_trials: Positive
    n_jobs: Positive
    max_failure_rate: Annotated[float, Field(ge=0, le=1)]
    sampler: dict[str, Any]
    params: dict[str, Any] | None
    custom_search_space: Annotated[str, Field(min_length=1)] | None

    @property
    def tries_all(self) -> bool:
        """Whether the sampler takes every combination once."""
        return str(self.sampler.get("_target_")).endswith("GridSampler")


@dataclass(frozen=True)
class Parameter:
    """What is chosen for one key.

    :param name: the key as it is typed. :param key: the same as Hydra takes it, with its ``+``.
    :param choices: each value, and how it is written; empty for numbers between ``low`` and ``high``, both included.
    :param step: between the numbers; None: any between.
    """

    name: str
    key: str
    kind: Literal["choice", "int", "float"]
    choices: Mapping[Value, str]
    low: float = 0
    high: float = 0
    step: float | None = None
    is_log: bool = False

    @property
    def values(self) -> list[Value] | None:
        """All of them; None where they have no end."""
        if self.kind == "choice":
            return [*self.choices]
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return [self.low + self.step * place for place in range(count)]

    def line(self, value: Value) -> str:
        """The override for a value."""
        return f"{self.key}={self.choices[value] if self.kind == 'choice' else repr(value)}"


@dataclass(frozen=True)
class Space:
    """:param fixed: overrides that all jobs have, as Hydra takes them. :param taken: the keys of those."""

    options: Options
    parameters: tuple[Parameter, ...]
    fixed: tuple[str, ...]
    taken: frozenset[str]

    @property
    def trials(self) -> int:
        """How many jobs the sweep is to have."""
        if not self.options.tries_all:
            return self.options.n_trials
        counts = [len(parameter.values or ()) for parameter in self.parameters]
        return min(self.options.n_trials, math.prod(counts))

    def overrides(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """The overrides of a job. :param values: by name, of every parameter and of what a function of the user's adds.

        :raises ConfigError: it adds a key that the command line has.
        """
        lines = [parameter.line(values[parameter.name]) for parameter in self.parameters]
        own = {parameter.name for parameter in self.parameters}
        added = {name: value for name, value in values.items() if name not in own}
        if twice := sorted({*added} & self.taken):
            reason = "the search space of the function has it, and so has the command line; take one of them out"
            raise ConfigError([Mistake(name, reason) for name in twice])
        groups = group_names()
        more = (phases.encode_override(f"{name}={_written(value)}", groups) for name, value in added.items())
        return (*self.fixed, *lines, *more)


def _written(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return quote(value) if isinstance(value, str) else repr(value)


def is_search(of_hydra: Any) -> bool:
    """Whether the sweeper is ours. :param of_hydra: the node ``hydra`` of a config."""
    return of_hydra.sweeper.get("_target_") == TARGET


def is_basic(of_hydra: Any) -> bool:
    """Whether the sweeper is Hydra's own, which takes every combination in turn."""
    return of_hydra.sweeper.get("_target_") == _BASIC


def options(of_hydra: Any) -> Options:
    """:raises ConfigError: every mistake in the keys of the sweeper, at once."""
    try:
        values: Any = OmegaConf.to_container(of_hydra.sweeper, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([Mistake(str(error.full_key or NODE), str(error).splitlines()[0])]) from None
    given = {key: value for key, value in values.items() if key not in _OF_HYDRA}
    return validated(Options, given, NODE)


def read(of_hydra: Any, lines: Sequence[str]) -> Space:
    """What is to be searched. :param lines: overrides of the command line.

    :raises ConfigError: every mistake at once.
    """
    asked, mistakes = options(of_hydra), list[Mistake]()
    found: dict[str, Parameter | str] = {}
    for override in parse([*param_lines(of_hydra), *lines]):
        if override.is_hydra_override():
            continue
        key = phases.decode_override(f"{override.get_key_element()}=").removesuffix("=").lstrip("+")
        try:
            found[key] = _parameter(key, override) if override.is_sweep_override() else str(override.input_line)
        except ValueError as error:
            mistakes.append(Mistake(key, str(error), override.get_value_string()))
    parameters = tuple(one for one in found.values() if isinstance(one, Parameter))
    if not parameters and asked.custom_search_space is None and not mistakes:
        reason = "has nothing to choose: give a key several values or an interval, as 'lora.r=8,16' or "
        reason += "'train.learning_rate=tag(log, interval(1e-5, 1e-3))'"
        mistakes.append(Mistake("hydra/sweeper", reason, "optuna"))
    if asked.tries_all:
        reason = "has no end of values, and the sampler tries all: use range(a, b, step), or another sampler"
        mistakes += [Mistake(one.name, reason) for one in parameters if one.values is None]
        if asked.custom_search_space is not None:
            reason = "the sampler tries all, and cannot know what a function adds; use another sampler"
            mistakes.append(Mistake(f"{NODE}.custom_search_space", reason, asked.custom_search_space))
    if mistakes:
        raise ConfigError(mistakes)
    fixed = {key: line for key, line in found.items() if isinstance(line, str)}
    return Space(asked, parameters, tuple(fixed.values()), frozenset(found))


def param_lines(of_hydra: Any) -> list[str]:
    """``hydra.sweeper.params`` as lines of a command line."""
    params = of_hydra.sweeper.get("params")
    if params is None:
        return []
    values: Any = OmegaConf.to_container(params, resolve=True)
    return [f"{key}={value if isinstance(value, str) else _listed(value)}" for key, value in flatten(values)]


def _listed(value: Any) -> str:
    return f"[{','.join(map(_listed, value))}]" if isinstance(value, list) else _written(value)


def parse(lines: Sequence[str]) -> list[Override]:
    """:raises ConfigError: what Hydra cannot read; on the command line that is told before."""
    try:
        return OverridesParser.create().parse_overrides(list(lines))
    except HydraException as error:
        raise ConfigError([Mistake(f"{NODE}.params", " ".join(str(error).split()))]) from None


def _parameter(name: str, override: Override) -> Parameter:
    """:raises ValueError: there is nothing to choose from."""
    key, value = override.get_key_element(), cast(Any, override.value())
    if isinstance(value, IntervalSweep):
        return _interval(name, key, value)
    if isinstance(value, RangeSweep):
        return _range(name, key, value)
    written = [*override.sweep_string_iterator()]
    if value.shuffle:  # which would be another order at the next start
        written.sort()
    return Parameter(name, key, "choice", dict(zip(map(_value, written), written)))


def _value(written: str) -> str | int | float:
    """A number as it is; anything else is known by how it is written."""
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return written


def _interval(name: str, key: str, value: IntervalSweep) -> Parameter:
    low, high = value.start, value.end
    assert low is not None and high is not None
    kind: Literal["int", "float"] = "int" if isinstance(low, int) and isinstance(high, int) else "float"
    _check_log(value.tags, low)
    if not low < high:
        raise ValueError("an interval goes from less to more")
    step = 1 if kind == "int" else None
    return Parameter(name, key, kind, {}, low, high, step, _LOG in value.tags)


def _range(name: str, key: str, value: RangeSweep) -> Parameter:
    values = sorted(value.range())
    if not values:
        raise ValueError("there is nothing in this range: its end is not in it")
    kind: Literal["int", "float"] = "int" if all(isinstance(one, int) for one in values) else "float"
    step = abs(value.step)
    if kind == "float":
        step = float(step)
    _check_log(value.tags, values[0])
    if _LOG in value.tags and step != 1:
        raise ValueError("what is drawn by its logarithm has no step: use tag(log, interval(a, b))")
    return Parameter(name, key, kind, {}, values[0], values[-1], step, _LOG in value.tags)


def _check_log(tags: set[str], low: float) -> None:
    if unknown := sorted(tags - {_LOG}):
        raise ValueError(f"no such tag: {unknown[0]}. There is log")
    if _LOG in tags and low <= 0:
        raise ValueError("what is drawn by its logarithm begins above 0")


def mistakes(cfg: DictConfig, lines: Sequence[str]) -> list[Mistake]:
    """What is wrong with the keys of the sweeper, and with what it is to choose from."""
    if not is_search(cfg.hydra):
        return []
    try:
        read(cfg.hydra, lines)
    except ConfigError as error:
        return [*error.mistakes]
    return []


def is_known_key(override: Override, cfg: DictConfig, found: list[Mistake]) -> bool:
    """Whether there is the key of an override of the sweeper. :param cfg: composed of the groups that were chosen."""
    key = override.key_or_group
    if not is_search(cfg.hydra) or not key.startswith(f"{NODE}."):
        return True
    parts = key.removeprefix(f"{NODE}.").split(".")
    known = [*Options.model_fields]
    if parts[0] == "sampler" and len(parts) > 1 and not override.is_add() and not override.is_force_add():
        known = [f"sampler.{name}" for name in cfg.hydra.sweeper.sampler if name != "_target_"]
        parts = [f"sampler.{parts[1]}"]
    if parts[0] in known:
        return True
    near = [f"{NODE}.{one}" for one in nearest(parts[0], known)]
    reason = f"no such key. Keys of the sweeper: {', '.join(known)}."
    found.append(Mistake(key, reason, override.get_value_string(), near))
    return False
