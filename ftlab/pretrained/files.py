"""Where a model's folder is, and its JSON files, each read once and judged in one place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_POINTER = b"version https://git-lfs.github.com/spec/"  # how a file of Git LFS begins that has not been downloaded
REMEDY = "Copy the folder again"


def local_folder(path: str | None, revision: str = "main") -> Path | None:
    """Return the folder of ``model.path`` on this machine: itself, or the hub's cache; None where there is none."""
    if not path:
        return None
    try:
        if Path(path).is_dir():
            return Path(path)
    except (OSError, ValueError):  # too long for a path, or with a zero byte in it
        return None
    if not _ID.fullmatch(path):
        return None
    repository = _hub_cache() / f"models--{path.replace('/', '--')}"
    named = repository / "refs" / revision
    commit = named.read_text(encoding="utf-8").strip() if named.is_file() else revision
    folder = repository / "snapshots" / commit
    return folder if (folder / CONFIG).is_file() else None


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its files; its own constants would cost a third of a second to import."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def stored_dtype(path: str | None, revision: str = "main") -> str | None:
    """The type that config.json says the weights of ``model.path`` have (``bfloat16``); None where nobody knows."""
    folder = local_folder(path, revision)
    try:
        found = read_object(folder / CONFIG) if folder is not None and (folder / CONFIG).is_file() else {}
    except NotReadyError:
        return None  # which preflight tells of
    named = found.get("dtype", found.get("torch_dtype"))
    return named if isinstance(named, str) else None


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object of a file.

    :raises NotReadyError: it cannot be read, or is something else; with the file and what to do.
    """
    try:
        if not file.is_file():
            kind = "is a folder" if file.is_dir() else "does not exist" if not file.exists() else "is no file"
            raise NotReadyError(f"{file} {kind}. {REMEDY}.")
        data = file.read_bytes()
    except OSError as error:
        raise NotReadyError(f"{file} cannot be read ({error.strerror}).") from None
    if data.startswith(_POINTER):
        raise NotReadyError(pointer_problem(file))
    if not data.strip():
        raise NotReadyError(f"{file} is empty. {REMEDY}.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise NotReadyError(f"{file} is no JSON, or only a part of it ({reason}). {REMEDY}.") from None
    if not isinstance(found, dict):
        raise NotReadyError(f"{file} must be a JSON object, {{...}}, and is {_kind(found)}. {REMEDY}.")
    return found


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def is_pointer(file: Path) -> bool:
    """Whether it is what Git LFS leaves in a file's place until it is downloaded."""
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def pointer_problem(file: Path) -> str:
    return (
        f"{file} is a pointer of Git LFS, not the file itself: the repository was cloned without its large files. In "
        f"the folder: git lfs pull (or hf download the model anew)."
    )
