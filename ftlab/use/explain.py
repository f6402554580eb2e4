"""``ftlab explain KEY``: which file, group or override set a value, and what it overrode."""

from __future__ import annotations

from collections.abc import Sequence

from ftlab.base.terminal import echo
from ftlab.config import command_line
from ftlab.config.compose import select_loader
from ftlab.config.history import Provenance, trace
from ftlab.errors import ConfigError, Mistake
from ftlab.schema import ExplainTask, Run


def explain(run: Run, argv: Sequence[str]) -> None:
    """Print the value and its history; the first line is what stands.

    :raises ConfigError: no key was given, or it does not exist.
    """
    assert isinstance(run.task, ExplainTask)
    if run.task.key is None:
        raise ConfigError([Mistake("task.key", "which key? For example: ftlab explain train.learning_rate")])
    given = command_line.read(argv)
    loader, config_name = select_loader(given.config_dir, given.config_name)
    echo("\n".join(_lines(trace(run.task.key, given.overrides, loader, config_name), "")))


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
