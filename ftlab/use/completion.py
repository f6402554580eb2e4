"""Tab completion: what a shell asks when a key is pressed. Hydra completes groups, choices and keys; tasks, their words
and files are added here."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import yaml

from ftlab.base.terminal import echo_document
from ftlab.config.paths import REPEATED, config_dir, task_names
from ftlab.config.quoting import is_path_key

_FILES = ("run.dir", "task.file", "task.folder", "task.first", "task.second", "task.repo", "task.out", "task.runs...")


def answer(argv: Sequence[str], start: Callable[[Sequence[str]], None]) -> None:
    """Print what may stand at the end of the line in ``COMP_LINE``; anything else that is asked is Hydra's to answer.

    :param start: lets Hydra run a command line.
    """
    line = os.environ.get("COMP_LINE")
    if line is None:
        start(argv)
        return
    program, *words = line.split(" ")
    *before, last = words or [""]
    given, bare, flags = _sorted(before)
    task = bare[0] if bare and bare[0] in task_names() else "train"
    choices = _of_files(last) if _is_file(task, bare[1:], last) else []
    if not bare:
        choices += [name for name in task_names() if name.startswith(last)]
    if not choices or "/" not in last:
        os.environ["COMP_LINE"] = " ".join([program, *given, last])  # of which Hydra would not know the bare words
        with redirect_stdout(io.StringIO()) as printed:
            start([*argv, *flags])
        choices += printed.getvalue().split()
    if task == "explain" and "=" not in last and len(bare) == 1:
        choices = [choice.removesuffix("=") for choice in choices]
    shell = next((word for word in argv if word.startswith("query=")), "")
    echo_document(("\n" if shell.endswith("fish") else " ").join(dict.fromkeys(choices)))


def _sorted(words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Overrides and flags; bare words; the flag that adds the user's own folder of configs, for Hydra itself."""
    given, bare, flags = [], [], []
    rest = iter(filter(None, words))
    for word in rest:
        if word in ("--config-dir", "-cd"):
            word = f"--config-dir={next(rest, '')}"
        if word.startswith("--config-dir="):
            flags.append(word)
        elif word.startswith("-") or "=" in word:
            given.append(word)
        else:
            bare.append(word)
    return given, bare, flags


def _is_file(task: str, words: Sequence[str], last: str) -> bool:
    """Whether a file or folder is wanted. :param words: that the task has already."""
    key, has_value, _ = last.partition("=")
    if has_value:
        return is_path_key(key) or key in ("--config-dir", "-cd")
    declared = yaml.safe_load((config_dir() / "task" / f"{task}.yaml").read_text(encoding="utf-8"))["words"]
    repeated = [key for key in declared if key.endswith(REPEATED)]  # takes all the words that are left
    return [*declared[len(words) :], *repeated, None][0] in _FILES


def _of_files(last: str) -> list[str]:
    """Files and folders that the word, or what follows its ``=``, begins."""
    before, has_value, path = last.rpartition("=")
    typed, has_folder, start = path.rpartition("/")
    folder = Path(typed + has_folder).expanduser()
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    fit = [one for one in there if one.name.startswith(start) and " " not in one.name]
    is_asked = start.startswith(".")  # for what is hidden
    return [
        f"{before}{has_value}{typed}{has_folder}{one.name}{'/' if one.is_dir() else ''}"
        for one in fit
        if is_asked or not one.name.startswith(".")
    ]
