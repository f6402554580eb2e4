"""What ``model.path`` really holds, where it is on this machine: a run has its shape, whatever the recipe says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ftlab.config.paths import config_dir
from ftlab.errors import Mistake, NotReadyError
from ftlab.pretrained import architecture, shape
from ftlab.pretrained.files import CONFIG, local_folder
from ftlab.pretrained.folder import not_a_model

LOCAL = "local"  # the choice without a shape of its own
_EMBEDDED = ("tiny", "tiny_instruct")  # what there is where nobody chose a model; a folder of any family may replace it
# What makes it another model than the recipe's. Others, such as the rows of the embedding, training changes.
_BODY = ("family", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "experts")
# Parameters below which the recommendations of a file of conf/model hold, as those files say.
_SIZES = (("_1b", 3.5e9), ("_7b", 10e9), ("_13b", 16e9), ("_34b", 50e9), ("_70b", float("inf")))


def apply(cfg: DictConfig, given: Collection[str] = ()) -> list[Mistake]:
    """Give ``model.architecture`` the shape of the folder at ``model.path``, and ``model=local`` its recommendations.

    A folder that cannot be read is preflight's to refuse; without its shape ``model=local`` has none at all.

    :param cfg: changed in place. :param given: keys that the command line sets, which stay as they are.
    :return: why the folder is none for this recipe.
    """
    model = _container(cfg, "model")
    path = model.get("path")
    recipe = model.get("recipe") or model.get("name")
    is_local = recipe == LOCAL
    if not isinstance(path, str):
        return [Mistake("model.path", _NO_PATH)] if is_local and path is None else []
    folder = local_folder(path, str(model.get("revision")))
    if folder is None or not_a_model(str(folder)):
        return [Mistake("model.path", _missing(path, folder), path)] if is_local else []
    try:
        real = architecture.read_architecture(folder)
        if is_local:
            given_shape = {key: value for key, value in model["architecture"].items() if value is not None}
            real = architecture.complete({**real, **_shape_given(given_shape, given)}, folder / CONFIG)
    except NotReadyError as error:
        return [Mistake("model.path", str(error), path)] if is_local else []
    said = model.get("architecture") or {}
    if not is_local and "model.architecture.family" not in given:
        kinds = architecture.model_types(architecture.read_object(folder / CONFIG))
        is_other = said.get("family") not in kinds
        if is_other and ("model" in given or recipe not in _EMBEDDED):
            return [Mistake("model.path", _other_family(str(recipe), said.get("family"), kinds[0], real), path)]
        if not is_other:
            real["family"] = said["family"]
        else:
            try:
                real = architecture.complete(real, folder / CONFIG)
            except NotReadyError as error:
                return [Mistake("model.path", str(error), path)]
    changed = {
        key: value for key, value in real.items() if f"model.architecture.{key}" not in given and said.get(key) != value
    }
    if not changed:
        return []
    for key, value in changed.items():
        OmegaConf.update(cfg, f"model.architecture.{key}", value, merge=False, force_add=True)
    OmegaConf.update(cfg, "model.recipe", recipe, merge=False, force_add=True)
    if (is_local or any(key in changed for key in _BODY)) and "model.name" not in given and not model.get("recipe"):
        OmegaConf.update(cfg, "model.name", folder_name(folder, path), merge=False)
    if is_local:
        _recommend(cfg, real, given)
    return []


_NO_PATH = (
    "model=local is any model of a folder: give it, as model.path=FOLDER, or the id of a model in the hub's cache "
    "(owner/name)"
)


_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # a folder's name may look the same


def _missing(path: str, folder: Path | None) -> str:
    if folder is None and not Path(path).exists():
        if not _HUB_ID.fullmatch(path):
            return "does not exist"
        return (
            "is neither a folder on this machine nor in the hub's cache, and model=local takes its shape from there. "
            f"On a machine with a network: hf download {path}"
        )
    return (not_a_model(path) or "").removeprefix(f"model.path={path} ")


def folder_name(folder: Path, path: str) -> str:
    """What to call the model of a folder: its last name, as that of a folder of outputs/ can be."""
    name = Path(path).name if not Path(path).is_dir() else folder.resolve().name
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in name)


def _container(cfg: DictConfig, key: str) -> Mapping[str, Any]:
    try:
        found: Any = OmegaConf.to_container(OmegaConf.select(cfg, key), resolve=True)
    except (OmegaConfBaseException, ValueError):
        return {}  # resolving the whole config says it better
    return found if isinstance(found, Mapping) else {}


def _shape_given(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if f"model.architecture.{key}" in given}


def _other_family(recipe: str, family: Any, real: str, found: Mapping[str, Any]) -> str:
    """:param real: the folder's own family. :param found: its shape."""
    fits = sorted(
        (abs(layers - found.get("layers", 0)), name)
        for name, of_recipe, layers in _recipes()
        if of_recipe in (found["family"], real)
    )
    others = f", or a recipe of its family: {', '.join(name for _, name in fits[:5])}" if fits else ""
    return (
        f"holds a model of the family {real} (its {CONFIG}), and model={recipe} is a recipe for {family}. Use "
        f"model={LOCAL}, which takes everything from the folder{others}"
    )


def _recipes() -> Iterator[tuple[str, str, int]]:
    """The shipped recipes for models of the hub, each with its family and its number of layers."""
    base = _read("_base")["architecture"]["family"]
    for file in sorted((config_dir() / "model").glob("[!_]*.yaml")):
        values = _read(file.stem)
        if values.get("architecture", {}).get("layers"):
            yield file.stem, values["architecture"].get("family", base), values["architecture"]["layers"]


def _read(name: str) -> Any:
    return yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))


def size_file(parameters: int) -> str:
    """The file of conf/model with what is recommended for so many parameters."""
    return next(name for name, bound in _SIZES if parameters < bound)


def _recommend(cfg: DictConfig, real: Mapping[str, Any], given: Collection[str]) -> None:
    recommended = _read(size_file(shape.parameter_count(SimpleNamespace(**real))))["recommended"]
    recommended["max_length"] = min(recommended["max_length"], real["max_positions"])
    for key, value in recommended.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, one in inner.items():
            dotted = f"model.recommended.{key}" + (f".{name}" if name else "")
            if dotted not in given:
                OmegaConf.update(cfg, dotted, one, merge=False, force_add=True)
