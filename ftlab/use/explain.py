"""``ftlab explain KEY``: what it means and takes, which file, group or override set its value, and what that overrode.

Of a group: its choices and its keys.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

from ftlab.base.terminal import asked_width, echo
from ftlab.config import command_line, dataset_names, experiments
from ftlab.config.compose import group_choices, select_loader
from ftlab.config.history import Provenance, trace
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
    lines = _of_group(key, run, argv) if has_keys or key in group_names() else _of_key(key, run, argv)
    echo("\n".join(lines))


def _of_key(key: str, run: Run, argv: Sequence[str]) -> list[str]:
    given = command_line.read(argv)
    loader, config_name = select_loader(given.config_dir, given.config_name)
    first, *rest = _lines(trace(key, given.overrides, loader, config_name), "")
    named = re.sub(r"^phases\.[^.]+\.", "", key)  # a phase has the keys of a run
    entry = reference.entry_of(named, run)
    return [first, *([f"  takes     {entry.takes}"] if entry is not None else []), *rest]


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
    comment = next((setting.comment for setting in reversed(provenance.settings) if setting.comment), None)
    if comment:
        lines.append(f"{indent}  {comment}")
    for place, setting in enumerate(reversed(provenance.settings)):
        verb = "set by" if place == 0 else "overrode"
        chosen = f"  ({setting.choice})" if setting.choice else ""
        lines.append(f"{indent}  {verb:<9} {setting.source}{chosen}: {_format_value(setting.value)}")
        if place == 0:
            lines += [line for reference in provenance.references for line in _lines(reference, f"{indent}    ")]
    return lines


def _format_value(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
