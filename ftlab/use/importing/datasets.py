"""Where the rows of another tool's config are: a registry of LLaMA-Factory's, a file, or a hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ftlab.config import dataset_names
from ftlab.config.foreign_names.lines import as_list
from ftlab.errors import ConfigError, Mistake, nearest
from ftlab.schema import Data
from ftlab.use.importing.source import Argument
from ftlab.use.importing.translate import Setting, Translation, mistake_of

_INFO = "dataset_info.json"
_NO_NAME = Setting("data.name", None, (), "none of the registry's")
# What LLaMA-Factory takes a set of a hub for that no registry describes, and TRL's trainers take rows for.
_FORMATS = {
    "LLaMA-Factory": {"pt": "text", "sft": "alpaca", "kto": "kto", "ppo": "prompts", "grpo": "prompts"},
    "TRL": {"sft": "messages", "kto": "kto", "grpo": "prompts"},
}


def choose(translation: Translation, data: Data) -> None:
    """Put ``data.name`` and ``data.registry``, or ``data.path`` and ``data.format``, in the place of ``data``.

    :param data: how files are read to find out what their rows are.
    :raises ConfigError: there is no data set, or the registry has no such set.
    """
    setting = translation.settings.pop("data", None)
    if setting is None:
        file = translation.source.file
        reason = "names no data set; add one: data.path=FILE data.format=FORMAT, or data=NAME"
        raise ConfigError([Mistake(str(file), reason)])
    names = [str(name) for name in as_list(setting.value)]
    if translation.source.tool == "TRL":
        _of_trl(translation, setting, names, data)
    else:
        _of_llama_factory(translation, setting, names)


def _of_llama_factory(t: Translation, setting: Setting, names: Sequence[str]) -> None:
    of_folder = t.settings.pop("data.registry", None)
    folder = str(t.source.get("dataset_dir") or "data")
    origin = of_folder.arguments if of_folder else (
        Argument("dataset_dir", folder, None, t.source.tool, is_default=True),
    )  # fmt: skip
    if folder == "ONLINE" or folder.startswith("REMOTE:"):
        _of_hub(t, setting, names, f"hf://{names[0]}")
        return
    registry = _registry(t.source.file, folder)
    if registry is None:
        registry = Path(folder) / _INFO
        t.decisions.append(f"{registry} is not here: the run needs it there, or data.registry=FILE.")
    else:
        known = [*map(str, dataset_names.in_registry(str(registry)))]
        missing = [name for name in names if name not in known]
        if missing:
            listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            reason = f"{registry} has no such set. It has: {listed}."
            raise ConfigError([
                mistake_of(replace(setting.arguments[0], value=name), reason, nearest(name, known)) for name in missing
            ])  # fmt: skip
    t.settings["data.name"] = Setting("data.name", names[0] if len(names) == 1 else [*names], setting.arguments)
    t.settings["data.registry"] = Setting("data.registry", str(registry), origin, "read as it is")
    _validation(t, registry)


def _registry(file: Path, folder: str) -> Path | None:
    """The registry, from the current folder, from one above the file (as below examples/), or beside it."""
    absolute = file.absolute().parent
    places = [Path(folder), *(above / folder for above in (absolute, *absolute.parents)), absolute]
    found = next((place / _INFO for place in places if (place / _INFO).is_file()), None)
    if found is None or not found.is_absolute():
        return found
    here = Path.cwd()
    return found.relative_to(here) if found.is_relative_to(here) else found


def _validation(t: Translation, registry: Path) -> None:
    """A set that is evaluated is the file that its entry names; only of one set, and of a file."""
    setting = t.settings.get("data.split.validation")
    if setting is None or setting.value == "none":
        return
    names = [str(name) for name in as_list(setting.value)]
    try:
        entries: Any = yaml.safe_load(registry.read_text(encoding="utf-8"))
        file = entries[names[0]]["file_name"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        file = None
    if len(names) > 1 or not isinstance(file, str):
        t.drop("data.split.validation", "data.split.validation=FILE takes one file, of the rows' own format", True)
        t.settings["data.split.validation"] = Setting("data.split.validation", "none", (), "see below")
        return
    path = str(registry.parent / file)
    t.change("data.split.validation", path, "its file, of the format of the training rows")


def _of_trl(t: Translation, setting: Setting, names: Sequence[str], data: Data) -> None:
    if len(names) != 1:
        raise ConfigError([mistake_of(setting.arguments[0], "several sets need a registry: data.registry=FILE")])
    path = Path(names[0]).expanduser()
    if path.exists():
        for key in [key for key in t.settings if key.startswith("data.hub.")]:
            t.drop(key, "of a set on a hub, and this is a file", True)
        t.settings["data.name"] = _NO_NAME
        t.settings["data.path"] = Setting("data.path", names[0], setting.arguments, "a file of this machine")
        _guessed(t, names[0], data)
    else:
        _of_hub(t, setting, names, f"hf://{names[0]}")


def _of_hub(t: Translation, setting: Setting, names: Sequence[str], path: str) -> None:
    if len(names) != 1:
        reason = "several sets of a hub need a registry: data.registry=FILE"
        raise ConfigError([mistake_of(setting.arguments[0], reason)])
    has_text = "data.columns.text" in t.settings
    format_ = "text" if has_text and t.stage in ("pt", "sft") else _FORMATS[t.source.tool].get(t.stage, "preference")
    if has_text and format_ != "text":
        t.drop("data.columns.text", f"of plain text, and stage={t.stage} trains on {format_}", True)
    if format_ == "text" and t.stage == "sft":
        t.change("stage", "pt", "plain text is what stage=pt trains on")
        t.stage = "pt"
        t.settings.pop("data.train_on", None)
    t.settings["data.name"] = _NO_NAME
    t.settings["data.path"] = Setting("data.path", path, setting.arguments, "a set on a hub")
    note = f"{t.source.tool} finds it by the columns; of another kind, give data.format"
    t.settings["data.format"] = Setting("data.format", format_, (), note)
    t.decisions.append(
        f"data.format={format_}: {t.source.tool} finds the format by the columns of {names[0]}, which are not looked "
        "at here. Give data.format=FORMAT, and data.columns where they have other names."
    )


def _guessed(t: Translation, file: str, data: Data) -> None:
    """The format of a file's rows, as ``ftlab init`` finds it."""
    from ftlab.use.init.guess import ORDER, STAGES, guesses, select_fitting
    from ftlab.use.init.rows import read_first

    rows = read_first(file, data)
    fitting = select_fitting(guesses(rows.rows, [one for one in ORDER if t.stage in STAGES[one]], {}))
    if not fitting:
        reason = f"its first rows are of no format that stage={t.stage} trains on; ftlab init {file} says what they are"
        raise ConfigError([mistake_of(t.settings["data.path"].arguments[0], reason)])
    best = fitting[0]
    t.settings["data.format"] = Setting(
        "data.format", best.format, (), f"{len(best.records)} of {rows.description} read so"
    )
    if best.columns:
        t.settings["data.columns"] = Setting("data.columns", best.columns, (), "its columns by the format's")
    if best.tags:
        t.settings["data.tags"] = Setting("data.tags", best.tags, (), "its words by sharegpt's")
