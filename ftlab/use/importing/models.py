"""Which recipe a model of another tool's config is, and whether it is here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from ftlab.config.paths import config_dir
from ftlab.pretrained.files import local_folder
from ftlab.use.importing.translate import Setting, Translation

_LOCAL = "local"
# What does not change a model's shape, at the end of its name.
_KIND = re.compile(r"[-_](instruct|chat|it|base|hf|pt|sft|thinking|v\d+(\.\d+)*|\d{4})$")


def choose(translation: Translation, given: bool) -> list[str]:
    """Add ``model=`` for the file's ``model.path``. :param given: whether the command line chooses one.

    :return: overrides that stand for a model that is not on this machine when the experiment is checked.
    """
    setting = translation.settings.get("model.path")
    if given:
        for key in [key for key in translation.settings if key in ("model.path", "model.revision", "model.template")]:
            translation.drop(key, "the command line says which model", is_lost=False)
    if setting is None or given:
        return []
    path = str(setting.value)
    is_here = local_folder(path) is not None
    is_folder = Path(path).expanduser().is_dir()
    recipe = None if is_folder else _recipe(path)
    name, exact = recipe or (_LOCAL, False)
    note = "its recipe" if exact else f"the recipe of its shape, by the name {path}" if recipe else (
        "shape and lengths come from its folder"
    )  # fmt: skip
    translation.settings["model"] = Setting("model", name, setting.arguments, note)
    if "model.template" not in translation.settings and not exact and recipe:
        translation.settings["model.template"] = Setting("model.template", None, (), "the tokenizer's own")
    if recipe is not None or is_here:
        return []
    translation.decisions.append(
        f"{path} is not on this machine, and no recipe has its shape. Before it trains: hf download {path}"
    )
    return _stand_in()


def _recipe(path: str) -> tuple[str, bool] | None:
    """The choice of conf/model for a model of the hub, and whether it is the very one; None where there is none."""
    recipes = dict(_recipes())
    if path.lower() in recipes:
        return recipes[path.lower()], True
    stem = _stem(path)
    near = [name for known, name in recipes.items() if _stem(known) == stem]
    return (near[0], False) if near else None


def _recipes() -> Iterator[tuple[str, str]]:
    for file in sorted((config_dir() / "model").glob("[!_]*.yaml")):
        path = yaml.safe_load(file.read_text(encoding="utf-8")).get("path")
        if isinstance(path, str) and "$" not in path:
            yield path.lower(), file.stem


def _stem(path: str) -> str:
    """A name without how it was tuned: ``Qwen/Qwen3-4B-Instruct-2507`` and ``Qwen/Qwen3-4B`` have one shape."""
    name = path.lower()
    while (shorter := _KIND.sub("", name)) != name:
        name = shorter
    return name


def _stand_in() -> list[str]:
    from ftlab.config.paths import shipped

    long = 2**20  # positions and layers: what the stand-in lacks is no mistake of the file
    return [f"model.path={shipped('models/tiny')}", f"model.architecture.max_positions={long}",
            f"model.architecture.layers={1000}"]  # fmt: skip
