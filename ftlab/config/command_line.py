"""The command line: a task, its bare words, flags and overrides, put into the one order that Hydra accepts."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from ftlab.base import filenames
from ftlab.config import dataset_names, experiments, foreign_names, keys, phases, quoting
from ftlab.config.compose import compose, select_loader
from ftlab.config.paths import REPEATED, config_dir, group_names, task_names
from ftlab.config.quoting import path_override, quote, text
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Run

# Hydra's flags that take the next argument as their value.
_VALUED_FLAGS = {
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
    "--info", "-i", "--experimental-rerun",
}  # fmt: skip
_BARE_FLAGS = {
    "-m", "--multirun", "-h", "--help", "--hydra-help", "--version", "--resolve", "-r", "--run", "-sc",
    "--shell-completion",
}  # fmt: skip
# Mappings with names of the user's own, which Hydra would not add to.
_OPEN = re.compile(
    r"^(data\.(golden\.)?(columns|tags)|model\.recommended\.learning_rate|hydra\.launcher\.additional_parameters)[.=]"
)

# A task with this key takes every KEY=VALUE that is no key of its own as what something else is to be.
_CHANGES = "changes"
_READS_CONFIGS = "import"  # the task whose file is a config
LAUNCHED = ("train", "resume")  # tasks that a launcher may be given; all others run here


@dataclass(frozen=True)
class Arguments:
    """:param flags: Hydra's flags with their values. :param overrides: Hydra overrides, task and words included."""

    task: str
    flags: tuple[str, ...]
    overrides: tuple[str, ...]

    @property
    def for_hydra(self) -> list[str]:
        shown = first_job(self) if self.is_multirun and self.flag("--cfg", "-c") is not None else self
        return [*shown.flags, *shown.overrides]

    @property
    def shows_job(self) -> bool:
        """Whether the config is to be shown and nothing to be run."""
        return self.flag("--cfg", "-c") == "job"

    @property
    def trains_sweep(self) -> bool:
        """Whether it is a sweep of trainings that is to be run, and not only to be shown."""
        return self.is_multirun and self.task == "train" and self.flag("--cfg", "-c") is None

    @property
    def repeats_task(self) -> bool:
        """Whether it is a sweep of a task that no launcher is given, because nothing is trained."""
        return self.is_multirun and self.task not in LAUNCHED and self.flag("--cfg", "-c") is None

    @property
    def single_flags(self) -> list[str]:
        """The flags that one job of a sweep would have been started with alone."""
        return [flag for flag in self.flags if flag not in ("-m", "--multirun")]

    @property
    def is_multirun(self) -> bool:
        return "-m" in self.flags or "--multirun" in self.flags

    @property
    def config_dir(self) -> str | None:
        """The user's own folder of configs, as it was typed."""
        return self.flag("--config-dir", "-cd")

    @property
    def config_name(self) -> str | None:
        return self.flag("--config-name", "-cn")

    def flag(self, *names: str) -> str | None:
        """The value of the first of the flags ``names`` that was given."""
        for i, flag in enumerate(self.flags):
            if flag in names and i + 1 < len(self.flags):
                return self.flags[i + 1]
            for name in names:
                if flag.startswith(f"{name}="):
                    return flag.removeprefix(f"{name}=")
        return None


def read(argv: Sequence[str]) -> Arguments:
    """Sort ``argv`` into task, flags and overrides.

    ``evaluate outputs/x compare=base -m`` becomes ``-m task=evaluate run.dir=outputs/x task.compare=base``.

    :raises ConfigError: an unknown task, or more bare words than the task takes.
    """
    flags, overrides, words, switches = [], [], [], []
    _refuse_other_encodings(argv)
    _refuse_dashed_keys(argv)
    rest = iter(argv)
    for argument in rest:
        if argument.startswith("-") and argument.partition("=")[0] not in _VALUED_FLAGS | _BARE_FLAGS:
            switches.append(argument)
        elif argument.startswith("-"):
            flags.append(argument)
            if argument in _VALUED_FLAGS:
                flags.extend(value for value in [next(rest, None)] if value is not None)
        elif ("=" in argument or argument.startswith("~")) and not _is_file(argument):
            overrides.append(argument)
        else:
            words.append(argument)
    named = [override.removeprefix("task=") for override in overrides if override.startswith("task=")]
    if "--version" in flags:
        flags, words, named = [], ["version"], []
    if words[:1] == ["help"] and not named:
        flags, words = [*flags, "--help"], words[1:]
    _refuse_split_paths(argv)
    for word in words if words[:1] != [_READS_CONFIGS] else []:
        if word.endswith((".yaml", ".yml")) and (hint := experiments.location_hint(word)) is not None:
            raise ConfigError([Mistake(word, hint)])
    task = words.pop(0) if words and not named else (named or ["train"])[-1]
    known = task_names()
    if task not in known:
        raise ConfigError([Mistake(task, f"is no task. Tasks: {', '.join(known)}.", None, nearest(task, known))])
    declared = yaml.safe_load((config_dir() / "task" / f"{task}.yaml").read_text())
    if len(words) > len(declared["words"]) and not any(key.endswith(REPEATED) for key in declared["words"]):
        takes = " ".join(f"<{key}>" for key in declared["words"]) or "no bare words"
        raise ConfigError([Mistake(" ".join(words), f"ftlab {task} takes {takes}; a value is given as key=value.")])
    own = declared.keys() - {"name", "words"}
    overrides, changes = _changes_apart(overrides, own) if _CHANGES in own else (overrides, [])
    overrides += [_flag_override(flag, declared) for flag in switches]
    overrides = [path_override(override) for override in overrides]
    overrides = [f"++{o}" if _OPEN.match(o) else o for o in overrides]
    groups = group_names()
    overrides = [phases.encode_override(override, groups) for override in overrides]
    # A task's own key may be written bare, or after the task's name.
    overrides = [
        f"task.{bare}" if re.split(r"[.=]", bare := o.removeprefix(f"{task}."), maxsplit=1)[0] in own else o
        for o in overrides
    ]
    overrides = _resolve_dataset_names(overrides, flags)
    if task != "train" and not named:
        overrides.insert(0, f"task={task}")
    overrides += _word_overrides(declared["words"], words)
    overrides += [f"task.{_CHANGES}=[{','.join(map(text, changes))}]"] if changes else []
    return Arguments(task, tuple(flags), tuple(overrides))


def _changes_apart(overrides: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str]]:
    """:param own: the task's keys. :return: the overrides of this command, and what it is to change."""
    is_own = re.compile(rf"\+*(task[.=]|run\.dir=|({'|'.join(own)})=)")
    return [o for o in overrides if is_own.match(o)], [o for o in overrides if not is_own.match(o)]


def _word_overrides(declared: Sequence[str], words: Sequence[str]) -> Iterator[str]:
    """Bare words as the values of a task's keys; the last key may take all that are left, as a list."""
    for at, key in enumerate(declared[: len(words)]):
        if key.endswith(REPEATED):
            yield f"{key.removesuffix(REPEATED)}=[{','.join(map(text, words[at:]))}]"
        else:
            yield f"{key}={text(words[at])}"


def of_job(of_hydra: Any) -> Arguments:
    """The command line that one job would have been started with alone, from Hydra's own config of it.

    :param of_hydra: the node ``hydra`` of a job's config, wherever that job runs.
    """
    own = [Path(source.path) for source in of_hydra.runtime.config_sources if source.provider == "command-line"]
    here = Path.cwd()
    flags = [f"--config-dir={path.relative_to(here) if path.is_relative_to(here) else path}" for path in own]
    if of_hydra.job.config_name != "config":
        flags.append(f"--config-name={of_hydra.job.config_name}")
    task = next((line.removeprefix("task=") for line in of_hydra.overrides.task if line.startswith("task=")), "train")
    return Arguments(task, tuple(flags), tuple(of_hydra.overrides.task))


def _resolve_dataset_names(overrides: Sequence[str], flags: Sequence[str]) -> list[str]:
    """``data=NAME`` for a set that is in the registry, and has no file in the group."""
    found = []
    for override in overrides:
        key, _, name = override.partition("=")
        if key == "data" and quote(name) == name and name in dataset_names.names(overrides):
            own = Arguments("", tuple(flags), ()).config_dir
            folders = [config_dir(), *([Path(own)] if own else [])]
            if not any((folder / "data" / f"{name}.yaml").is_file() for folder in folders):
                found += [f"data={dataset_names.CHOICE}", f"data.name={name}"]
                continue
        found.append(override)
    return found


def _is_file(argument: str) -> bool:
    """Whether what seems an override is a file's name, as ``a=b.jsonl``: it is there, and begins with no key."""
    first = re.split(r"[.=/@]", argument.lstrip("+~"), maxsplit=1)[0]
    return os.path.lexists(argument) and first not in _first_keys()


def _first_keys() -> set[str]:
    """What an override may begin with: a group, a key at the top, a task's own."""
    tasks = (yaml.safe_load((config_dir() / "task" / f"{task}.yaml").read_text()) for task in task_names())
    return {*group_names(), *Run.model_fields, "hydra", *(key for task in tasks for key in task)}


def _refuse_split_paths(argv: Sequence[str]) -> None:
    """:raises ConfigError: a path with spaces that the shell has taken apart, where the whole is there."""
    for place, argument in enumerate(argv):
        key, _, begin = argument.partition("=")
        if not quoting.is_path_key(key) or os.path.lexists(begin):
            continue
        for end in range(place + 2, len(argv) + 1):
            whole = " ".join([begin, *argv[place + 1 : end]])
            if os.path.lexists(whole):
                typed = shlex.quote(f"{key}={whole}")
                raise ConfigError([Mistake(f"{key}={whole}", f"the shell has taken it apart. Type {typed}")])


def _refuse_other_encodings(argv: Sequence[str]) -> None:
    """:raises ConfigError: what is not UTF-8, as a file's name may be, can be in no config."""
    mistakes = []
    for argument in argv:
        if not filenames.is_utf8(argument):
            file = argument.partition("=")[2] or argument
            advice = filenames.rename_advice(file) if os.path.lexists(file) else "Give a name that is."
            mistakes.append(Mistake(filenames.show(argument), f"is not UTF-8. {advice}"))
    here = os.getcwd()  # noqa: PTH109 (a string is wanted)
    if not filenames.is_utf8(here):
        reason = "the folder that the command is given in has a name that is not UTF-8."
        mistakes.append(Mistake(filenames.show(here), f"{reason} {filenames.rename_advice(here)}"))
    if mistakes:
        raise ConfigError(mistakes)


def _refuse_dashed_keys(argv: Sequence[str]) -> None:
    """:raises ConfigError: ``--learning_rate 1e-4`` and the like, with the keys as they are written here."""
    mistakes = []
    for place, argument in enumerate(argv):
        flag, has_value, value = argument.partition("=")
        if not argument.startswith("--") or flag in _VALUED_FLAGS | _BARE_FLAGS:
            continue
        if not has_value:
            following = argv[place + 1] if place + 1 < len(argv) else ""
            is_value = following and not following.startswith("--") and "=" not in following
            value = following if is_value else ""
        name = flag.removeprefix("--")
        line = foreign_names.translation(name, value or None)
        if line is None and (has_value or value) and (key := _key_of(name)) is not None:
            line = f"a key is written {key}={quote(value)}"
        if line is not None:
            given = argument if has_value or not value else f"{argument} {value}"
            mistakes.append(Mistake(given, f"{line}. Keys take no dashes: key=value."))
    if mistakes:
        raise ConfigError(mistakes)


def _key_of(name: str) -> str | None:
    """The key that a name is, or is the last part of; None where there is none, or a task has it."""
    folder = config_dir()
    if any(name in yaml.safe_load((folder / "task" / f"{task}.yaml").read_text()) for task in task_names()):
        return None
    loader, config_name = select_loader(None, None)
    values: Any = OmegaConf.to_container(compose([], loader, config_name), resolve=False)
    dotted = [key for key, _ in keys.flatten(values, keep_empty=lambda _: True) if not key.startswith("hydra.")]
    wanted = name.replace("-", "_")
    if wanted in values:
        return wanted
    return next((key for key in dotted if wanted in (key, key.replace(".", "_"), key.rpartition(".")[2])), None)


def _flag_override(flag: str, declared: Mapping[str, object]) -> str:
    """``--yes`` and ``-y`` of a task with a key ``yes`` that is false: what is switched on."""
    key = {"-y": "yes"}.get(flag, flag.removeprefix("--"))
    if declared.get(key) is False:
        return f"task.{key}=true"
    known = {*_VALUED_FLAGS, *_BARE_FLAGS, *(f"--{name}" for name, value in declared.items() if value is False)}
    shown = ", ".join(sorted(name for name in known if name.startswith("--")))
    near = nearest(flag, known)
    raise ConfigError(
        [Mistake(flag, f"no such flag. Flags: {shown}. Config keys take no dashes: key=value.", None, near)]
    )


def first_job(arguments: Arguments) -> Arguments:
    """The command line of the first job of a sweep, whose config is what ``-m --cfg job`` shows."""
    overrides = OverridesParser.create().parse_overrides(list(arguments.overrides))
    return replace(arguments, flags=tuple(arguments.single_flags), overrides=tuple(first_values(overrides)))


def first_values(overrides: Sequence[Any]) -> list[str]:
    """The first value of each of Hydra's parsed overrides, as a line."""
    return [line for override in overrides for line in choices_of(override)[:1]]


def choices_of(override: Any) -> list[str]:
    """The override for each value of its sweep; of an interval for its ends and one between; itself when it is none."""
    if override.is_discrete_sweep():
        return ["=".join((override.get_key_element(), value)) for value in override.sweep_string_iterator()]
    if override.is_interval_sweep():
        return [f"{override.get_key_element()}={value!r}" for value in _examples(override.value())]
    return [] if override.is_sweep_override() else [str(override.input_line)]


def _examples(interval: Any) -> list[float]:
    """What may be drawn of an interval; of real numbers most are not whole."""
    low, high = interval.start, interval.end
    if isinstance(low, int) and isinstance(high, int):
        return [low, high]
    return [low, low + (high - low) / math.e, high]
