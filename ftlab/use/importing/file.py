"""The experiment that ``ftlab import`` writes."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from ftlab.base.redaction import redact
from ftlab.config import experiment_file
from ftlab.config.experiment_file import Target, value_text
from ftlab.use.importing.source import show
from ftlab.use.importing.translate import Setting, Translation, Unused

_WIDTH = 100


def text(where: Target, translation: Translation, groups: Collection[str]) -> str:
    """:param groups: the config groups; the others of the settings are keys."""
    of_groups = [setting for setting in translation.settings.values() if setting.key in groups]
    lines = ["# @package _global_", f"# ftlab {where.arguments}"]
    lines.append(f"# From {translation.source.file}, a config of {translation.source.tool}; ftlab import wrote it.")
    for decision in translation.decisions:
        lines += textwrap.wrap(decision, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False)
    lines.append("defaults:")
    lines += [f"{f'  - override /{one.key}: {one.value}':<30}  # {comment(one)}" for one in of_groups]
    nodes: dict[str, Any] = {}
    for setting in sorted(translation.settings.values(), key=_place):
        if setting.key not in groups:
            experiment_file.put(nodes, setting.key, value_text(setting.value), comment(setting))
    return "\n".join([*lines, *experiment_file.lines(nodes), *_left_out(translation)]) + "\n"


def _place(setting: Setting) -> tuple[int, str]:
    order = ("model", "method", "quant", "lora", "stage", "data", "train", "eval", "run", "seed", "hardware", "tracker")
    first = setting.key.partition(".")[0]
    return (order.index(first) if first in order else len(order), first)


def comment(setting: Setting) -> str:
    """Where a line comes from, and what is to be said of it."""
    origin = " and ".join(argument.where for argument in setting.arguments)
    return "; ".join(part for part in (origin, setting.note) if part)


def _left_out(translation: Translation) -> Iterator[str]:
    lost = [one for one in translation.unused if one.is_lost]
    if lost:
        yield ""
        yield f"# Of {translation.source.file} nothing here is:"
        for one in lost:
            said = f"{one.argument.where}: {value_of(one)}: {one.reason}"
            yield from textwrap.wrap(
                said, _WIDTH, initial_indent="#   ", subsequent_indent="#     ", break_long_words=False
            )


def value_of(unused: Unused) -> str:
    """The value as it may be shown: not where it may be a secret."""
    is_secret = unused.argument.name.endswith(("token", "key", "secret"))
    return "<redacted>" if is_secret else redact(show(unused.argument.value))
