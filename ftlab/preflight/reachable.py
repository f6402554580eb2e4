"""Whether the models and adapters that a run names are there: in a folder, in the hub's cache, on the hub."""

from __future__ import annotations

from pathlib import Path

from ftlab.data.sources.hub import is_reachable
from ftlab.errors import NotReadyError, first_line
from ftlab.pretrained.files import CONFIG
from ftlab.pretrained.folder import not_a_model
from ftlab.schema import Run


def cached_folder(path: str, file: str) -> Path:
    """The folder of the hub's cache that has a file of a repository."""
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(path, file, revision="main"))).parent


def unreachable(key: str, path: str, revision: str, file: str) -> list[str]:
    """Return why there is neither a folder nor a repository at ``path``, with what would do."""
    folder = Path(path)
    if folder.is_dir():
        return []
    if folder.is_absolute() or path.startswith(("./", "../", "~")):
        return [f"{key}={path} does not exist"]
    return _unreachable_on_hub(key, path, revision, file)


def check_base(config: Run) -> None:
    """Look whether the model that a run was trained on is there. :raises NotReadyError: it is not."""
    path = config.model.path
    assert path is not None, "preflight has seen to it"
    problem = not_a_model(path) if Path(path).exists() else None
    lacking = [problem] if problem else unreachable("model.path", path, config.model.revision, CONFIG)
    if lacking:
        raise NotReadyError(
            "\n".join(["The model that the run was trained on is not there:", *(f"  - {line}" for line in lacking)])
        )


def _unreachable_on_hub(key: str, path: str, revision: str, file: str) -> list[str]:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

    instead = (
        f"Give a folder with {key}=FOLDER, or copy the model into the cache {constants.HF_HUB_CACHE} "
        f"(on a machine with a network: hf download {path}; HF_HOME moves the cache)"
    )
    try:
        if isinstance(try_to_load_from_cache(path, file, revision=revision), str):
            return []
        if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
            return [f"{key}={path} is not in the cache, and the hub cannot be reached. {instead}"]
        hf_hub_download(path, file, revision=revision)
    except GatedRepoError:
        return [f"{key}={path} is gated: accept its licence on the hub and set HF_TOKEN. {instead}"]
    except HFValidationError:
        return [f"{key}={path} is neither a folder nor the id of a model on the hub (owner/name)"]
    except (HfHubHTTPError, OSError) as error:
        return [f"{key}={path} cannot be read from the hub ({first_line(error)}). {instead}"]
    return []
