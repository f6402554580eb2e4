"""Whether a saved adapter can be started from, as its adapter_config.json tells. Imports no torch, loads no weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ftlab.errors import NotReadyError
from ftlab.pretrained.files import ADAPTER as CONFIG
from ftlab.pretrained.files import REMEDY, read_object
from ftlab.pretrained.weights import ADAPTER_FILES, inspect_weights
from ftlab.rundir.names import FINAL
from ftlab.schema import Run


def adapter_mistakes(run: Run, folder: Path, spec: str, alternative: str, given: Collection[str]) -> list[str]:
    """Return every reason why this run cannot start from an adapter; empty if there is none.

    Under ``method=lora`` the adapter that trains is the saved one, of its own rank, scale and kind. A config that wants
    another is refused; one that has what is recommended for the model, and so perhaps nobody's choice, is not.

    :param folder: where the adapter is. :param spec: what the user typed for it.
    :param alternative: how to begin a new one. :param given: keys of the command line.
    """
    if not (folder / CONFIG).is_file():
        return [f"{spec} has no {CONFIG}{_nearby(folder)}"]
    if damage := file_problems(folder):
        return [f"{spec}: {problem}" for problem in damage]
    saved = read_object(folder / CONFIG)
    kind, task = saved["peft_type"], saved.get("task_type")
    if run.stage.name != "rm" and task == "SEQ_CLS":
        return [
            f"{spec} is the adapter of a reward model (task_type SEQ_CLS), which is no policy for "
            f"stage={run.stage.name} to start from; a reward model goes into stage.reward_model of stage=ppo, or "
            "stage.rewards=[model:RUN] of stage=grpo"
        ]
    if run.model.init == "random":
        return [f"{spec} was trained on weights that model.init=random does not load; {alternative}"]
    if run.method.name != "lora":
        return []  # it is merged, whatever it is
    if kind != "LORA":
        return [f"{spec} is of PEFT's kind {kind}, and method=lora trains LORA alone; merge it with method=full"]
    return [*_unquantizable(run, saved, spec), *_other_shape(run, saved, spec, alternative, given)]


def file_problems(folder: Path) -> list[str]:
    """Return what is wrong with the files of an adapter's folder that has an adapter_config.json; empty where nothing
    is seen. Of the weights only their first kilobytes are read."""
    file = folder / CONFIG
    try:
        saved = read_object(file)
    except NotReadyError as error:
        return [str(error)]
    wrong = [
        f"{file}: {key}={saved.get(key)!r} must be {words}. {REMEDY}."
        for key, (is_right, words) in _VALUES.items()
        if (key == "peft_type" or saved.get("peft_type") == "LORA") and not is_right(saved.get(key))
    ]
    return wrong or list(inspect_weights(folder, ADAPTER_FILES).problems)


def _are_names(value: Any) -> bool:
    """Modules that an adapter is on: a pattern, a list, or none where only weights are named."""
    return isinstance(value, str | None) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


# What of an adapter_config.json a run reads, as PEFT writes it.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "peft_type": (lambda value: isinstance(value, str), "the kind of adapter, such as LORA"),
    "r": (lambda value: type(value) is int and value > 0, "a whole number of at least 1"),
    "lora_alpha": (lambda value: type(value) in (int, float), "a number"),
    "target_modules": (_are_names, "a name, or a list of them"),
}


def _nearby(folder: Path) -> str:
    if (folder / FINAL / CONFIG).is_file():
        return f"; of a run directory give the final adapter, {folder / FINAL}"
    if (folder / "config.json").is_file():
        return "; a whole model goes into model.path"
    return "; it must be a folder that PEFT saved, such as final/ of a run directory"


def _unquantizable(run: Run, saved: dict[str, Any], spec: str) -> Iterator[str]:
    """The rules of ``lora.variant`` and ``quant``, for the variant that the adapter has."""
    variant = _variant(saved)
    if variant == "pissa" and run.quant.name != "none":
        yield (
            f"{spec} is a PiSSA adapter, which belongs to what is left of the unquantized weights; "
            f"quant={run.quant.name} cannot have it. Use quant=none"
        )
    if variant == "dora" and run.quant.name == "int8":
        yield f"{spec} is a DoRA adapter, which cannot read the scales of int8 weights; use quant=nf4"


def _other_shape(run: Run, saved: dict[str, Any], spec: str, alternative: str, given: Collection[str]) -> Iterator[str]:
    lora, recommended = run.lora, run.model.recommended.lora
    asked: dict[str, tuple[Any, Any]] = {}
    if lora.r != recommended.r or "lora.r" in given:
        asked["r"] = lora.r, saved.get("r")
    if lora.alpha != recommended.alpha or "lora.alpha" in given:
        asked["alpha"] = lora.alpha, saved.get("lora_alpha")
    if lora.variant in ("dora", "rslora", "pissa") or "lora.variant" in given:
        # LoRA+ is a matter of learning rates, and goes with any.
        asked["variant"] = "lora" if lora.variant == "loraplus" else lora.variant, _variant(saved)
    targets = saved.get("target_modules")
    if isinstance(lora.target_modules, tuple) and isinstance(targets, list):
        asked["target_modules"] = _list(lora.target_modules), _list(targets)
    for key, (wanted, has) in asked.items():
        if wanted != has:
            yield (
                f"lora.{key}={wanted}: {spec} has {key} {has}, and is trained on as it is. Leave lora.{key} out, or "
                f"{alternative}, or merge the adapter with method=full"
            )


def _variant(saved: dict[str, Any]) -> str:
    if str(saved.get("init_lora_weights")).startswith("pissa"):
        return "pissa"
    return "dora" if saved.get("use_dora") else "rslora" if saved.get("use_rslora") else "lora"


def _list(names: Collection[str]) -> str:
    return f"[{', '.join(sorted(names))}]"
