"""What a user may have given as ``model.path`` that is no model, and what to give instead."""

from __future__ import annotations

import json
from pathlib import Path

from ftlab.pretrained.files import ADAPTER, CONFIG
from ftlab.rundir.names import FINAL, WEIGHT_FILES

_WEIGHTS = {*WEIGHT_FILES, ".gguf", ".h5", ".msgpack", ".onnx"}


def not_a_model(path: str) -> str | None:
    """Return why there is no model at a path of this machine, and what to give; None for a folder with a config.json.

    :param path: a file or a folder, as the user gave it.
    """
    folder = Path(path)
    spec = f"model.path={path}"
    if folder.is_file():
        if folder.suffix == ".gguf":
            return f"{spec} is a GGUF file, which is for inference; give the folder of the model that it was made of"
        what = "a file of weights" if folder.suffix in _WEIGHTS else "a file"
        return f"{spec} is {what}; give the folder that it is in: model.path={folder.parent}"
    if (folder / CONFIG).is_file():
        return None
    if (folder / ADAPTER).is_file():
        return f"{spec} is an adapter, not a whole model. Give {_base_and_adapter(folder)}"
    from ftlab.rundir.directory import RunDir  # and all that reads a run, which a model's folder does not need

    if RunDir(folder).run_yaml.is_file():
        final = folder / FINAL
        if (final / CONFIG).is_file():
            return f"{spec} is a run directory; its trained model is model.path={final}"
        if (final / ADAPTER).is_file():
            return f"{spec} is a run directory, and it trained an adapter. Give {_base_and_adapter(final)}"
        return f"{spec} is a run directory without final weights; finish it first: ftlab resume {path}"
    if folder.is_dir() and not any(folder.iterdir()):
        return f"{spec} is an empty folder; it must be a folder in Hugging Face format"
    inside = sorted(one.parent for one in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    hint = f". Did you mean model.path={inside[0]}?" if inside else ""
    return f"{spec} has no config.json; it must be a folder in Hugging Face format{hint}"


def _base_and_adapter(folder: Path) -> str:
    """The two keys that an adapter needs, its base named where its own file does."""
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    return f"model.path={base if isinstance(base, str) and base else 'BASE'} and model.adapter={folder}"
