"""LLaMA-Factory's dataset_info.json, as its own parser reads it (``src/llamafactory/data/parser.py``).

What that file says is kept to, which sometimes differs from ours:

- An entry with ``columns`` has the columns it lists and no others; one without has instruction, input and output
  (alpaca) or conversations (sharegpt and openai), and no system prompt, history or tools.
- A set on a hub wins over a file. Of two hubs Hugging Face's wins, unless ``USE_MODELSCOPE_HUB=1`` (or
  ``USE_OPENMIND_HUB=1``, which is refused).
- Its alpaca sets serve three kinds of stages. Under pt the prompt column is the text, and nothing else is read. (Its
  documentation says so. Its code appends a query column, too, where the entry has one.) Under ppo and grpo sft's sets
  are sets of prompts.

Tags that are not listed stay those of the format: LLaMA-Factory would then know no such role, and skip each row that
has it. Keys that neither of us knows are passed over, as it does, but not columns and tags: those are about the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftlab.data.formats import COLUMNS
from ftlab.data.sources.entry import Entry, raise_all, unknown_columns
from ftlab.errors import DataError, Mistake, nearest

_FORMATS = {"alpaca": "alpaca", "sharegpt": "sharegpt", "openai": "messages"}
# Our names of its columns; that of `messages` depends on the format.
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "label",
}
_MEDIA = ("images", "videos", "audios")
_DEFAULTS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"}
_DEFAULT_TAGS = {
    "role": "from",
    "content": "value",
    "user": "human",
    "assistant": "gpt",
    "observation": "observation",
    "function": "function_call",
    "system": "system",
}
_PLACES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")


def translate(registry: Path, name: str, raw: Any, stage: str) -> Entry:
    """Translate an entry of LLaMA-Factory's registry into an entry of ours.

    :raises DataError: it is wrong, or of a kind that cannot be served.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"data.registry={registry}: {name}: must be an object with file_name or hf_hub_url.")
    raise_all(registry, list(_mistakes(name, raw)))
    columns = {**_DEFAULTS, **({"chosen": "chosen", "rejected": "rejected"} if raw.get("ranking") else {})}
    if "columns" in raw:
        columns = {key: column for key, column in raw["columns"].items() if column is not None}
    format_, ours = _format_and_columns(raw, columns, stage)
    raise_all(registry, list(unknown_columns(f"{name}.columns", format_, ours)))
    others: dict[str, str | None] = {column: None for column in COLUMNS[format_] if column != "id"}
    values = {
        "format": format_,
        "columns": {**others, **ours},
        "tags": _tags(raw),
        "num_samples": raw.get("num_samples"),
        **_place(raw),
    }
    try:
        return Entry.model_validate(values)
    except ValidationError as error:
        details = [(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
        raise_all(registry, [Mistake(f"{name}.{where}", f"{said}.") for where, said in details])
        raise


def _mistakes(name: str, raw: Mapping[str, Any]) -> Iterator[Mistake]:
    formatting = raw.get("formatting", "alpaca")
    if formatting not in _FORMATS:
        near = nearest(str(formatting), _FORMATS)
        yield Mistake(f"{name}.formatting", f"must be one of: {', '.join(_FORMATS)}.", formatting, near)
    for key, known in (
        ("columns", [*_COLUMNS, "messages", *_MEDIA]),
        ("tags", [f"{tag}_tag" for tag in _DEFAULT_TAGS]),
    ):
        given = raw.get(key, {})
        if not isinstance(given, Mapping):
            yield Mistake(f"{name}.{key}", f"must be an object, not {type(given).__name__}.")
            continue
        for one in given:
            if one not in known:
                yield Mistake(f"{name}.{key}.{one}", f"unknown. Known: {', '.join(known)}.", None, nearest(one, known))
        if key == "columns" and (media := [column for column in _MEDIA if given.get(column)]):
            yield Mistake(f"{name}.columns.{media[0]}", f"rows with {media[0]} cannot be used; ftlab trains on text.")
    yield from _unsupported(name, raw)


def _unsupported(name: str, raw: Mapping[str, Any]) -> Iterator[Mistake]:
    place = _select_place(raw)
    instead = "Download the set, and name its files with file_name."
    if place is None:
        yield Mistake(name, f"has none of {', '.join(_PLACES)}.")
    elif place == "script_url":
        yield Mistake(f"{name}.script_url", f"loading scripts are not run; datasets no longer runs them. {instead}")
    elif place in ("om_hub_url", "cloud_file_name"):
        yield Mistake(f"{name}.{place}", f"ftlab reads files, the Hugging Face hub and ModelScope. {instead}")
    elif place == "file_name" and raw.get("split", "train") != "train":
        reason = "of a file all rows are taken; data.max_samples takes fewer, data.split.* names other files."
        yield Mistake(f"{name}.split", reason, raw["split"])


def _select_place(raw: Mapping[str, Any]) -> str | None:
    if "ms_hub_url" in raw and (_is_set("USE_MODELSCOPE_HUB") or "hf_hub_url" not in raw):
        return "ms_hub_url"
    if "om_hub_url" in raw and (_is_set("USE_OPENMIND_HUB") or "hf_hub_url" not in raw):
        return "om_hub_url"
    return next((key for key in ("hf_hub_url", *_PLACES[3:]) if key in raw), None)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "0").lower() in ("true", "y", "1")


def _place(raw: Mapping[str, Any]) -> dict[str, Any]:
    place = _select_place(raw)
    if place == "file_name":
        return {"files": {"train": raw["file_name"]}}
    host = "hub" if place == "hf_hub_url" else "modelscope"
    of_hubs = {key: raw.get(key) for key in ("subset", "folder", "revision", "split")}
    return {host: raw[str(place)], **of_hubs}


def _format_and_columns(raw: Mapping[str, Any], columns: Mapping[str, str], stage: str) -> tuple[str, dict[str, str]]:
    """The format of the rows under this stage, and their columns."""
    style = _FORMATS[raw.get("formatting", "alpaca")]
    if "prompt" in columns and "messages" not in columns:
        style = "alpaca"  # {prompt: text} alone is no conversation, whatever the entry calls it
    left_out = ("messages",) if style == "alpaca" else ("prompt", "query", "response", "history")
    ours = {_COLUMNS[key]: column for key, column in columns.items() if key in _COLUMNS and key not in left_out}
    if style != "alpaca" and "messages" in columns:
        ours["conversations" if style == "sharegpt" else "messages"] = columns["messages"]
    if raw.get("ranking"):
        return "preference", _known_columns(ours, "preference")
    if "label" in ours:
        return "kto", ours
    if stage in ("ppo", "grpo"):
        return "prompts", _known_columns(ours, "prompts")
    if "instruction" in ours and (stage == "pt" or "output" not in ours):
        return "text", {"text": ours["instruction"]}
    return style, ours


def _known_columns(columns: Mapping[str, str], format_: str) -> dict[str, str]:
    """Without those that rows of this kind have no use for, such as the answer beside chosen and rejected ones."""
    return {name: column for name, column in columns.items() if name in COLUMNS[format_]}


def _tags(raw: Mapping[str, Any]) -> dict[str, str]:
    if "tags" in raw:
        return {key.removesuffix("_tag"): word for key, word in raw["tags"].items() if word is not None}
    return dict(_DEFAULT_TAGS) if raw.get("formatting") == "openai" else {}
