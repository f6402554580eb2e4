"""``ftlab explain KEY``: what it means and takes, which file, group or override set its value, and what that overrode.

Of a group: its choices and its keys.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from ftlab.base.terminal import asked_width, echo, echo_json
from ftlab.config import command_line, dataset_names, experiments
from ftlab.config.compose import group_choices, select_loader
from ftlab.config.history import COMMAND_LINE, Provenance, trace
from ftlab.config.keys import flatten
from ftlab.config.paths import group_names
from ftlab.errors import ConfigError, Mistake
from ftlab.schema import ExplainTask, Run
from ftlab.use import reference


def explain(run: Run, argv: Sequence[str]) -> None:
    """Print the value of a key and its history, the first line being what stands; or what a group has.

    :raises ConfigError: no key was given, or it does not exist.
    """
    assert isinstance(run.task, ExplainTask)
    if run.task.key is None:
        raise ConfigError([Mistake("task.key", "which key? For example: ftlab explain train.learning_rate")])
    key = run.task.key.removesuffix(".")
    has_keys = any(entry.key.startswith(f"{key}.") for entry in reference.entries_of(key, run))
    is_group, is_json = has_keys or key in group_names(), run.task.format == "json"
    if is_group and is_json:
        echo_json(_facts_of_group(key, run, argv))
    elif is_group:
        echo("\n".join(_of_group(key, run, argv)))
    else:
        provenance, entry = _trace(key, argv), _entry(key, run)
        if is_json:
            echo_json({**_facts(provenance), "takes": entry.takes if entry is not None else None})
        else:
            first, *rest = _lines(provenance, "")
            echo("\n".join([first, *([f"  takes     {entry.takes}"] if entry is not None else []), *rest]))
            if key in run.hardware.fits_by and provenance.settings[-1].source != COMMAND_LINE:
                preset = f"hardware={run.hardware.name}"
                how = "for a run that would not fit (hardware.fits_by): ftlab plan says whether"
                echo(f"  {preset} may change it {how}")


def _trace(key: str, argv: Sequence[str]) -> Provenance:
    given = command_line.read(argv)
    loader, config_name = select_loader(given.config_dir, given.config_name)
    return trace(key, given.overrides, loader, config_name)


def _entry(key: str, run: Run) -> reference.Entry | None:
    return reference.entry_of(re.sub(r"^phases\.[^.]+\.", "", key), run)  # a phase has the keys of a run


def _facts(provenance: Provenance) -> dict[str, Any]:
    """A key's value and where it is from, the setting that stands first."""
    settings = [
        {"source": setting.source, "choice": setting.choice, "value": setting.value}
        for setting in reversed(provenance.settings)
    ]
    return {
        "key": provenance.key, "value": provenance.value, "meaning": _comment(provenance), "settings": settings,
        "taken_from": [_facts(one) for one in provenance.references],
    }  # fmt: skip


def _facts_of_group(group: str, run: Run, argv: Sequence[str]) -> dict[str, Any]:
    given = command_line.read(argv)
    loader, _ = select_loader(given.config_dir, given.config_name)
    known = dataset_names.with_registered(group_choices(loader), dataset_names.in_registry(run.data.registry))
    values = dict(flatten(run.model_dump(mode="json")))
    keys = [
        {"key": entry.key, "value": values.get(entry.key), "takes": entry.takes, "meaning": entry.meaning}
        for entry in reference.entries_of(group, run)
    ]
    chosen = getattr(getattr(run, group, None), "name", None)
    return {"group": group, "chosen": chosen, "choices": sorted(known.get(group, ())), "keys": keys}


def _of_group(group: str, run: Run, argv: Sequence[str]) -> list[str]:
    given = command_line.read(argv)
    loader, _ = select_loader(given.config_dir, given.config_name)
    known = dataset_names.with_registered(group_choices(loader), dataset_names.in_registry(run.data.registry))
    lines = []
    if named := reference.choices(group, known.get(group, ())):
        lines += [f"{group}=NAME chooses one of (* by default)", *_filled("  ", "  ".join(named))]
        if given.config_dir is None and (hint := experiments.choices_hint(group)) is not None:
            lines += _filled("  ", hint)
    values = dict(flatten(run.model_dump(mode="json")))
    entries = reference.entries_of(group, run)
    chosen = getattr(getattr(run, group, None), "name", None)
    if entries:
        lines += [""] if lines else []
        lines.append(f"Keys of {group}{f' ({chosen})' if chosen else ''}; ftlab explain KEY says more of each")
    for entry in entries:
        value = f" = {_format_value(values[entry.key])}" if entry.key in values else ""
        lines += _filled(f"  {entry.key}{value}: ", entry.meaning)
    return lines


def _filled(start: str, text: str) -> list[str]:
    """Lines of the width of a terminal, or of 80 columns."""
    width = asked_width() or shutil.get_terminal_size((80, 0)).columns
    return textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent="      " if start.strip() else start,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _lines(provenance: Provenance, indent: str) -> list[str]:
    lines = [f"{indent}{provenance.key} = {_format_value(provenance.value)}"]
    if comment := _comment(provenance):
        lines.append(f"{indent}  {comment}")
    for place, setting in enumerate(reversed(provenance.settings)):
        verb = "set by" if place == 0 else "overrode"
        chosen = f"  ({setting.choice})" if setting.choice else ""
        lines.append(f"{indent}  {verb:<9} {setting.source}{chosen}: {_format_value(setting.value)}")
        if place == 0:
            lines += [line for reference in provenance.references for line in _lines(reference, f"{indent}    ")]
    return lines


def _comment(provenance: Provenance) -> str | None:
    return next((setting.comment for setting in reversed(provenance.settings) if setting.comment), None)


def _format_value(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
