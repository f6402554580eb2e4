"""``--help``: what there is to choose, and commands to try. Reads conf/ alone; imports nothing heavy."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml

from ftlab.base.terminal import echo
from ftlab.config.paths import config_dir, group_names, task_names

WIDTH = 100  # of a pipe, and at most of a terminal
_TERM = 14  # what the names of tasks and groups take, with their indent

TRY = (
    ("ftlab", "trains the embedded model on shipped data, in half a minute"),
    ("ftlab data.path=my.json data.format=alpaca", "the same on a file of yours"),
    ("ftlab model=llama3_8b method=qlora --cfg job", "shows a whole config without running it"),
    ("ftlab -m lora.r=8,16,32 train.learning_rate=1e-3,3e-4", "a sweep: every combination, one after the other"),
    ("ftlab explain train.learning_rate model=llama2_7b", "its meaning, bounds, and which file or override set it"),
    ("ftlab explain lora", "the choices and keys of a group"),
)


def show(argv: Sequence[str]) -> None:
    """Print the general help, or that of the task that is named beside ``--help`` or the word ``help``.

    :raises ConfigError: an unknown task, or another mistake.
    """
    words = [word.removeprefix("task=") for word in argv if not word.startswith("-") and word != "help"]
    tasks = [word for word in words if word in task_names()]
    if words and words != tasks:
        from ftlab.config import command_line  # there is more on the line than a task, and it may be wrong

        given = command_line.read([*(word for word in argv if word != "help"), "--help"])
        tasks = [given.task] if given.task in words else []
    echo(_task_help(tasks[0]) if tasks else _general_help())


def _general_help() -> str:
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    lines = ["ftlab: one config for every fine-tuning run", "", "  ftlab [TASK] [GROUP=CHOICE ...] [KEY=VALUE ...]", ""]
    lines += ["Tasks (ftlab TASK --help says more)"]
    for name in task_names():
        lines += _entry(name, _comments(config_dir() / "task" / f"{name}.yaml")[0], width)
    lines += ["", "Groups and their choices (* by default)"]
    defaults = _defaults()
    for group in [name for name in group_names() if name != "task"]:
        names = sorted(path.stem for path in (config_dir() / group).glob("[!_]*.yaml"))
        lines += _entry(group, "  ".join(f"{name}*" if name == defaults[group] else name for name in names), width)
    lines += ["", "Keys: seed and those of run, sweep, train, eval and every group,"]
    lines += ["  such as train.learning_rate=1e-4 lora.r=32; ftlab explain GROUP lists them", "", "Try"]
    for command, meaning in TRY:
        lines += [f"  {command}", f"      {meaning}"]
    lines += ["", "Flags: -m sweeps; --cfg job shows the config; --config-dir DIR adds groups"]
    lines += ["  of yours; --hydra-help has the rest"]
    return "\n".join(lines)


def _entry(name: str, text: str, width: int) -> list[str]:
    """A name and what stands beside it, in lines of ``width`` columns at most."""
    return textwrap.wrap(
        text, width, initial_indent=f"  {name}".ljust(_TERM), subsequent_indent=" " * _TERM, break_on_hyphens=False
    )


def _task_help(task: str) -> str:
    path = config_dir() / "task" / f"{task}.yaml"
    about, *examples = _comments(path)
    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    words = "".join(f" <{word.removeprefix('task.')}>" for word in declared["words"])
    lines = [f"ftlab {task}{words}", f"  {about}", "", *(f"  {line}" for line in examples)]
    unquoted = [line.replace('"', "", 2) for line in path.read_text(encoding="utf-8").splitlines()]  # "yes" is a key
    keys = [line for line in unquoted if line.split(":")[0] in _task_keys(declared)]
    return "\n".join([*lines, *(["", "Keys of its own", *(f"  {line}" for line in keys)] if keys else [])])


def _task_keys(declared: dict[str, object]) -> set[str]:
    return set(declared) - {"name", "words"}


def _comments(path: Path) -> list[str]:
    """The comment lines that open a config file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return [line for line in opening if not line.startswith("@package")]


def _defaults() -> dict[str, str | None]:
    root = yaml.safe_load((config_dir() / "config.yaml").read_text(encoding="utf-8"))
    return {group: choice for entry in root["defaults"] if isinstance(entry, dict) for group, choice in entry.items()}
