"""Python that a model's folder brings. transformers runs it as the user, with all that the user may do, so it runs only
where the user has asked for it. Imports no torch and runs nothing."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import CONFIG, local_folder, read_object
from ftlab.schema import Model, Run

_CONFIGS = (CONFIG, "tokenizer_config.json", "processor_config.json")  # whose auto_map names classes
KEY = "model.trust_remote_code"


def untrusted(run: Run) -> Run:
    """The same run for a command that only reads it: whoever wrote its run.yaml decides nothing here."""
    return run.model_copy(update={"model": run.model.model_copy(update={"trust_remote_code": False})})


def code_files(model: Model) -> list[str]:
    """What transformers would load: ``modeling_x.py`` of the folder, ``owner/name: modeling_x.py`` from elsewhere."""
    named = [text for config in _CONFIGS for text in _strings(_read(model, config).get("auto_map"))]
    found = set()
    for text in named:
        repository, _, classes = text.rpartition("--")  # owner/name--module.Class
        found.add(f"{repository}: " * bool(repository) + f"{classes.rpartition('.')[0]}.py")
    return sorted(found)


def refusal(model: Model) -> str | None:
    """Why the model cannot be loaded without its own code, and what would do; None if it can be, or may run it."""
    type_ = _read(model, CONFIG).get("model_type")
    files = code_files(model)
    if model.trust_remote_code or not files or _has_class(type_):
        return None
    return explain(model)


def explain(model: Model) -> str:
    """What to say of a model that needs code of its own."""
    files = ", ".join(code_files(model)) or "Python files"
    return (
        f"model.path={model.path} brings its own code ({files}), which would run as you, with all that you may do. "
        f"Read it, and if you trust it: {KEY}=true. Commands that read a run never run it"
    )


def is_untrusted(model: Model, error: Exception) -> bool:
    """Whether transformers has refused to run the code, as it does when it has no class of its own."""
    return not model.trust_remote_code and "trust_remote_code" in str(error)


def notice(model: Model) -> str | None:
    """One line on the code that a run is about to run; None where there is none."""
    files = code_files(model) if model.trust_remote_code else []
    return f"{KEY}=true: runs {', '.join(files)} of {model.path}" if files else None


def _has_class(model_type: Any) -> bool:
    """Whether transformers has the model's family itself, and so would not run the folder's code unless told to."""
    found = find_spec("transformers")
    if not isinstance(model_type, str) or not model_type.isascii() or found is None or found.origin is None:
        return False
    name = model_type.replace("-", "_")
    return name.isidentifier() and (Path(found.origin).parent / "models" / name).is_dir()


def _read(model: Model, name: str) -> dict[str, Any]:
    """A JSON object of the model's folder, or of the hub's cache; empty where there is none that can be read."""
    folder = local_folder(model.path, model.revision)
    try:
        return read_object(folder / name) if folder is not None else {}
    except NotReadyError:
        return {}


def _strings(value: Any) -> list[str]:
    """Every string in a value of JSON: an auto_map names one class, or a slow and a fast one, or null."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]
