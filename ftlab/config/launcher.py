"""The keys of ``hydra.launcher``, where the launcher is one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from ftlab.config.command_line import LAUNCHED
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema.launchers import Gpus, Shards
from ftlab.slurm.options import TARGET, Options

GROUP, NODE = "hydra/launcher", "hydra.launcher"

# Keys of hydra/launcher=slurm by which the configs of a job take turns.
_TURNS = ("configs_per_job", "shards", "resident")
_GroupT = TypeVar("_GroupT", bound=BaseModel)


# What Hydra makes the launcher of -> the keys that it takes.
_KINDS: dict[str, type[Options | Shards | Gpus]] = {
    TARGET: Options,
    "hydra_plugins.ftlab_launchers.shards.ShardsLauncher": Shards,
    "hydra_plugins.ftlab_launchers.gpus.GpusLauncher": Gpus,
}


def options(of_hydra: Any) -> Options | Shards | Gpus | None:
    """What is asked of a launcher of ours; None where another is chosen.

    :param of_hydra: the node ``hydra`` of a config. :raises ConfigError: every mistake at once.
    """
    node = of_hydra.launcher
    kind = _KINDS.get(node.get("_target_"))
    if kind is None:
        return None
    try:
        values: Any = OmegaConf.to_container(node, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([Mistake(str(error.full_key or NODE), str(error).splitlines()[0])]) from None
    return parse(values, kind)


def parse(values: Mapping[str, Any], kind: type[Options | Shards | Gpus]) -> Options | Shards | Gpus:
    """:param values: of the launcher's node. :raises ConfigError: every mistake at once."""
    return validated(kind, {key: value for key, value in values.items() if key != "_target_"}, NODE)


def validated(kind: type[_GroupT], values: Mapping[str, Any], node: str) -> _GroupT:
    """:param node: that the values are of, as it is typed. :raises ConfigError: every mistake at once."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = {".".join(map(str, one["loc"][:1])): one for one in error.errors()}
        raise ConfigError([_mistake(f"{node}.{key}", one["msg"], one["input"]) for key, one in found.items()]) from None


def _mistake(key: str, message: str, value: object) -> Mistake:
    if "valid tuple" in message:
        return Mistake(key, f"must be a list: {key}=[{value}]")
    return Mistake(key, message.replace("Input should be", "must be").split(", unable to parse")[0], value)


def is_key(override: Override) -> bool:
    """Whether an override is of a key of the launcher."""
    return override.key_or_group.startswith(f"{NODE}.")


def is_known_key(override: Override, cfg: DictConfig, mistakes: list[Mistake]) -> bool:
    """Whether there is the key of an override of the launcher. :param cfg: composed of the groups that were chosen."""
    key = override.key_or_group
    kind = _KINDS.get(cfg.hydra.launcher.get("_target_"))
    if kind is None:
        return True
    name = key.removeprefix(f"{NODE}.").split(".")[0]
    known = [*kind.model_fields]
    if name in known:
        return True
    reason = f"no such key. Keys of the launcher: {', '.join(known)}."
    near = [f"{NODE}.{one}" for one in nearest(name, known)]
    mistakes.append(Mistake(key, reason, override.get_value_string(), near))
    return False


def mistakes(cfg: DictConfig, task: str, is_multirun: bool) -> list[Mistake]:
    """What is wrong with the launcher's keys, or with a task that it cannot launch."""
    try:
        asked = options(cfg.hydra)
    except ConfigError as error:
        return [*error.mistakes]
    if isinstance(asked, Shards | Gpus):
        return _mistakes_of_sweep(cfg, task, is_multirun)
    if asked is not None and task not in LAUNCHED:
        return [Mistake(GROUP, f"ftlab {task} runs here; train and resume are handed to a cluster", "slurm")]
    if asked is not None and cfg.run.checkpoint is not None:
        reason = "is for a start on this machine: a job that is queued again would go back to it each time"
        return [Mistake("run.checkpoint", reason, cfg.run.checkpoint)]
    return [] if asked is None else _mistakes_of_turns(asked, task, is_multirun)


def _mistakes_of_turns(asked: Options, task: str, is_multirun: bool) -> list[Mistake]:
    """Of the keys by which one job of a cluster trains several configs."""
    given = {key: value for key in _TURNS if (value := getattr(asked, key)) is not None}
    if given and not (is_multirun and task == "train"):
        reason = "is for the configs of a sweep: add -m, or leave it out"
        return [Mistake(f"{NODE}.{key}", reason, value) for key, value in given.items()]
    missing = [key for key in ("configs_per_job", "shards") if key not in given]
    reason = f"the configs of a job take turns: give {' and '.join(f'{NODE}.{key}=N' for key in missing)}, too"
    return [Mistake(f"{NODE}.{key}", reason, value) for key, value in given.items() if missing]


def _mistakes_of_sweep(cfg: DictConfig, task: str, is_multirun: bool) -> list[Mistake]:
    """Of a launcher that is for the configs of a sweep alone."""
    name = cfg.hydra.runtime.choices[GROUP]
    if task != "train":
        return [Mistake(GROUP, f"ftlab {task} trains no configs that it could launch; leave it out", name)]
    if not is_multirun:
        return [Mistake(GROUP, "is for the configs of a sweep: add -m, or leave it out", name)]
    if cfg.run.checkpoint is not None:
        reason = "is a step of one run; ftlab resume takes it, with the directory of that run"
        return [Mistake("run.checkpoint", reason, cfg.run.checkpoint)]
    return []
