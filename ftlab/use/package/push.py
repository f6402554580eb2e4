"""``push=true``: the files of a package as a repository of the Hugging Face hub, a private one by default."""

from __future__ import annotations

import os
from pathlib import Path

from ftlab.errors import NotReadyError, first_line

VARIABLE = "HF_TOKEN"


def token() -> str:
    """From the environment alone. :raises NotReadyError: there is none."""
    found = os.environ.get(VARIABLE, "").strip()
    if not found:
        raise NotReadyError(
            f"push=true needs a token of the Hugging Face hub that may write, in the environment variable {VARIABLE}."
        )
    return found


def push(folder: Path, name: str, repo: str | None, private: bool, archive: Path) -> str:
    """Upload all files in one commit; returns the address.

    :param name: of the package. :param repo: as the user typed it. :param archive: which stays, whatever happens.
    :raises NotReadyError: the hub cannot be reached, or does not let the token; or what is there is for everybody, and
        this was to be private.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError

    hub = HfApi(token=token())
    kept = f"The package is written all the same: {archive}"
    try:
        owned = repo if repo is not None and "/" in repo else f"{hub.whoami()['name']}/{repo or name}"
        hub.create_repo(owned, private=private, exist_ok=True)
        if private and not hub.repo_info(owned).private:
            raise NotReadyError(
                f"task.repo={owned} is there already, and for everybody; private=false lets it be so. {kept}"
            )
        hub.upload_folder(repo_id=owned, folder_path=folder, commit_message=f"{name}, packed by ftlab")
    except (HTTPError, HFValidationError, OSError) as error:
        if isinstance(error, NotReadyError):
            raise
        raise NotReadyError(f"It cannot be pushed to {hub.endpoint} ({first_line(error)}). {kept}") from None
    return f"{hub.endpoint}/{owned}"
