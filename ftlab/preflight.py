"""Will it run: what this build has, the data, the model. Loads no weights and no torch."""

from __future__ import annotations

from pathlib import Path

from ftlab.data import registry
from ftlab.data.hub import answers
from ftlab.data.prepare import check_first_rows
from ftlab.errors import DataError, NotReadyError
from ftlab.schema import Run
from ftlab.stages import TRAINERS, generations


def check(run: Run) -> None:
    """:raises NotReadyError: everything that is missing, at once.
    :raises ConfigError, DataError: the data does not exist or does not fit.
    """
    missing = [f"{key} is not in this build yet" for key in _not_built(run)]
    if run.stage.name == "grpo":
        generations.check(run)
        missing += filter(None, [generations.lacks_vllm(run)])
    try:
        sources = registry.resolve(run.data, run.stage.name)
        check_first_rows(sources, run.data)
    except DataError as error:
        missing.append(str(error))
    missing += _unreachable_model(run)
    if missing:
        raise NotReadyError("\n".join(["This run cannot start here:", *(f"  - {line}" for line in missing)]))


def _not_built(run: Run) -> list[str]:
    """Valid choices whose machinery this build lacks."""
    lacking = {
        f"stage={run.stage.name}": run.stage.name not in TRAINERS,
        "a curriculum of phases": bool(run.phases),
        "lora.variant=loraplus": run.method.name == "lora" and run.lora.variant == "loraplus",
        "stage.neftune_alpha": getattr(run.stage, "neftune_alpha", None) is not None,
        f"deepspeed={run.deepspeed.name}": run.deepspeed.stage is not None,
        "hardware.fsdp": run.hardware.fsdp,
        "more than one device": run.hardware.nodes > 1 or run.hardware.devices not in ("auto", 1),
        f"tracker={run.tracker.name}": run.tracker.name not in ("tensorboard", "none"),
        "train.early_stopping": run.train.early_stopping is not None,
        "train.on_oom=halve": run.train.on_oom == "halve",
        "eval.generate_every": run.eval.generate_every is not None,
        "run.phases": run.run.phases is not None,
        f"train.engine=trl for stage={run.stage.name}": run.train.engine == "trl" and run.stage.name != "sft",
    }
    return [key for key, is_lacking in lacking.items() if is_lacking]


def _unreachable_model(run: Run) -> list[str]:
    """Why the model's files cannot be read, with what would do; empty when they can."""
    path = run.model.path
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return [f"model.path={path} has no config.json; it must be a folder in Hugging Face format"]
        return []
    if folder.is_absolute() or path.startswith(("./", "../", "~")):
        return [f"model.path={path} does not exist"]
    return _unreachable_on_hub(path, run.model.revision)


def _unreachable_on_hub(path: str, revision: str) -> list[str]:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    instead = (
        f"Give a folder with model.path=FOLDER, or copy the model into the cache {constants.HF_HUB_CACHE} "
        f"(on a machine with a network: hf download {path}; HF_HOME moves the cache)"
    )
    try:
        if isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str):
            return []
        if constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT):
            return [f"model.path={path} is not in the cache, and the hub cannot be reached. {instead}"]
        hf_hub_download(path, "config.json", revision=revision)
    except GatedRepoError:
        return [f"model.path={path} is gated: accept its licence on the hub and set HF_TOKEN. {instead}"]
    except HFValidationError:
        return [f"model.path={path} is neither a folder nor the id of a model on the hub (owner/name)"]
    except (HfHubHTTPError, OSError) as error:
        return [f"model.path={path} cannot be read from the hub ({str(error).splitlines()[0]}). {instead}"]
    return []
