"""``ftlab import FILE``: a training config of another tool becomes an experiment, each key translated or named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import yaml
from rich.table import Table

from ftlab.base.console import Terminal
from ftlab.base.terminal import echo_json
from ftlab.config import compose, experiment_file
from ftlab.config.experiment_file import Target
from ftlab.errors import ConfigError, Mistake
from ftlab.schema import ImportTask, Run
from ftlab.use.importing import datasets, file, models, source
from ftlab.use.importing.source import Argument, show
from ftlab.use.importing.translate import Setting, Translation, mistake_of, translate
from ftlab.use.inspect.command import console

_DATA = ("data", "data.path", "data.name")


def import_file(run: Run, overrides: Sequence[str]) -> None:
    """Read, translate, write, check, show.

    :raises ConfigError: the file is none of the two tools', or has keys and values that they do not know, or that no
        config here may have. :raises NotReadyError: there is no file, or an experiment of that name.
    """
    task = run.task
    assert isinstance(task, ImportTask)
    if task.file is None:
        raise ConfigError([Mistake("task.file", "which file? For example: ftlab import llama3_lora_sft.yaml")])
    where = experiment_file.default_target(task.file, task.experiment, task.out, overrides)
    experiment_file.check_free(where, task.overwrite)
    given = _given(overrides)
    found = source.read(task.file, task.skip)
    translation = translate(found, given, task.skip)
    if not any(key in given for key in _DATA):
        datasets.choose(translation, run.data)
    else:
        _leave_data(translation)
    beside = models.choose(translation, "model" in given)
    _put_given(translation, given)
    groups = compose.group_choices(compose.select_loader(str(where.folder) if where.folder.is_dir() else None, None)[0])
    _check_choices(translation, groups)
    _write(where, translation, groups, [] if "model.path" in given else beside)
    if task.format == "json":
        echo_json(facts(where, translation))
    else:
        _print(console(), where, translation)


def _given(overrides: Sequence[str]) -> dict[str, str]:
    """What the command line says of the experiment: keys and groups with their values."""
    typed = [override.lstrip("+") for override in overrides if "=" in override and not override.startswith("-")]
    pairs = [override.partition("=") for override in typed]
    return {key: value for key, _, value in pairs if not key.startswith(("task", "hydra", "experiment"))}


def _leave_data(translation: Translation) -> None:
    for key in [key for key in translation.settings if key in ("data", "data.registry")]:
        translation.drop(key, "the command line says which data", is_lost=False)


def _put_given(translation: Translation, given: dict[str, str]) -> None:
    for key, value in given.items():
        if key in translation.settings:
            translation.drop(key, f"the command line says {key}={value}", is_lost=False)
        translation.settings[key] = Setting(key, yaml.safe_load(value), (), "as ftlab import was told")


def _check_choices(translation: Translation, groups: dict[str, list[str]]) -> None:
    """:raises ConfigError: a choice that a group does not have."""
    mistakes = []
    for setting in translation.settings.values():
        options = groups.get(setting.key)
        if options is not None and setting.value not in options:
            reason = f"there is no {setting.override} here; {setting.key} may be: {', '.join(options)}"
            mistakes += [mistake_of(argument, reason) for argument in setting.arguments[:1]]
    if mistakes:
        raise ConfigError(mistakes)


def _write(where: Target, translation: Translation, groups: dict[str, list[str]], beside: Sequence[str]) -> None:
    """:raises ConfigError: what came out is no good config; every mistake with the key of the file that it is from."""
    try:
        experiment_file.write(where, file.text(where, translation, groups), beside)
    except ConfigError as error:
        raise ConfigError([_of_file(translation, mistake) for mistake in error.mistakes]) from None


def _of_file(translation: Translation, mistake: Mistake) -> Mistake:
    setting = translation.settings.get(mistake.key) or translation.settings.get(mistake.key.partition(".")[0])
    if setting is None or not setting.arguments:
        return mistake
    told = mistake_of(setting.arguments[0], f"that is {setting.override} here: {mistake.reason}", mistake.suggestions)
    return replace(told, key=setting.arguments[0].where) if setting.arguments[0].is_default else told


# --- what is shown ---------------------------------------------------------------------------------------------------


def facts(where: Target, translation: Translation) -> dict[str, Any]:
    """What ``format=json`` prints."""
    arguments = {id(a): a for setting in translation.settings.values() for a in setting.arguments if not a.is_default}
    translated = []
    for place, argument in sorted(arguments.items(), key=lambda one: one[1].line or 0):
        settings = [one for one in translation.settings.values() if place in map(id, one.arguments)]
        notes = list(dict.fromkeys(one.note for one in settings if one.note))
        here = {one.key: one.value for one in settings}
        translated.append({**_about(argument), "here": here, "note": "; ".join(notes) or None})
    by_default = [setting for setting in translation.settings.values() if any(a.is_default for a in setting.arguments)]
    unused, lost = (
        [{**_about(one.argument), "value": file.value_of(one), "reason": one.reason} for one in translation.unused
         if one.is_lost is is_lost] for is_lost in (False, True)
    )  # fmt: skip
    return {
        "file": str(translation.source.file), "tool": translation.source.tool, "stage": translation.stage,
        "experiment": str(where.path), "command": f"ftlab {where.arguments}",
        "translated": translated,
        "defaults": [{"here": {one.key: one.value}, "reason": file.comment(one)} for one in by_default],
        "not_needed": unused, "left_out": lost, "decisions": translation.decisions,
    }  # fmt: skip


def _about(argument: Argument) -> dict[str, Any]:
    return {"key": argument.name, "line": argument.line, "value": argument.value}


def _print(to: Terminal, where: Target, translation: Translation) -> None:
    shown = facts(where, translation)
    to.print(f"{shown['file']}: a config of {shown['tool']}, stage={shown['stage']}", soft_wrap=True, markup=False)
    to.print()
    to.print(_table(("there", "here"), [(_there(one), _here(one)) for one in shown["translated"]]))
    for title, key in (("not said here", "not_needed"), ("left out", "left_out")):
        if shown[key]:
            to.print()
            to.print(_table((title, "why"), [(_there(one), one["reason"]) for one in shown[key]]))
    if shown["defaults"]:
        rows = [(_overrides(one["here"]), one["reason"]) for one in shown["defaults"]]
        to.print()
        to.print(_table((f"{shown['tool']}'s defaults", "from"), rows))
    for decision in shown["decisions"]:
        to.print()
        to.print(decision, soft_wrap=True, markup=False)
    to.print(f"\nWritten to {where.path}. It trains with\n  {shown['command']}", soft_wrap=True, markup=False)
    to.print(f"and says beforehand whether it fits with\n  ftlab plan {where.arguments}", soft_wrap=True, markup=False)


def _there(one: dict[str, Any]) -> str:
    return f"{one['key']}={show(one['value'])}"


def _overrides(here: dict[str, Any]) -> str:
    return " ".join(f"{key}={show(value)}" for key, value in here.items())


def _here(one: dict[str, Any]) -> str:
    said = _overrides(one["here"])
    return f"{said} ({one['note']})" if one["note"] else said


def _table(columns: Sequence[str], rows: Sequence[tuple[str, str]]) -> Table:
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
