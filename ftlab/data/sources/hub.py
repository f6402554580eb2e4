"""Data sets on the Hugging Face hub and on ModelScope, read through ``datasets``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ftlab.data.sources.blocks import BLOCK_ROWS, Block, Location, cut_batches
from ftlab.data.sources.files import sha256
from ftlab.errors import DataError, first_line

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Hub(Location):
    """One split of a data set on a hub.

    :param id: ``owner/name``, or a folder laid out as on the hub (it starts with ``/``, ``./``, ``../`` or ``~``).
    :param host: whose hub: Hugging Face's (hf) or ModelScope (ms). :param folder: of the repository, to read only that.
    :param streaming: read rows as they come, and store none of them.
    """

    id: str
    host: Literal["hf", "ms"] = "hf"
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    folder: str | None = None
    streaming: bool = False

    def __str__(self) -> str:
        return ", ".join(filter(None, [f"{self.host}://{self.id}", self.subset, self.split]))

    @property
    def local(self) -> Path | None:
        """The folder, where it is one."""
        return Path(self.id).expanduser() if self.id.startswith(("/", "./", "../", "~")) else None

    def count(self) -> int:
        data = _load(self)
        said = self._declared_count(data)
        return sum(len(block) for block in self._blocks(data, BLOCK_ROWS)) if said is None else said

    def _declared_count(self, data: Any) -> int | None:
        """How many rows the set says that it has; None where it says nothing."""
        if not self.streaming:
            return len(data)
        split = (data.info.splits or {}).get(self.split)
        return int(split.num_examples) if split is not None and split.num_examples else None

    def blocks(self, size: int = BLOCK_ROWS) -> Iterator[Block]:
        data, seen = _load(self), 0
        for block in self._blocks(data, size):
            seen += len(block)
            yield block
        if seen == 0:
            raise DataError(f"{self}: has no rows.")
        said = self._declared_count(data)
        if said not in (None, seen):  # rows were drawn from as many as it said
            raise DataError(
                f"{self}: says that it has {said} rows, but {seen} came. data.hub.streaming=false counts them."
            )

    def _blocks(self, data: Any, size: int) -> Iterator[Block]:
        with _explain_errors(self):
            yield from cut_batches(str(self), 0, _batches(data, size), size)

    def fingerprint(self) -> dict[str, str]:
        """Of a set on the Hugging Face hub the commit; of a folder, also a downloaded one, the hash of each file.

        ``datasets``' own fingerprint is left out: it changes with the time at which the files were stored.
        """
        place, commit = _place(self)
        if commit is not None:
            return {str(self): commit}
        files = sorted(path for path in Path(place).rglob("*") if path.is_file() and not _hidden(path, Path(place)))
        return {str(path): sha256(path) for path in files}

    def size(self) -> int | None:
        return None if self.streaming else int(_load(self).data.nbytes)


def parse(spec: str) -> tuple[Literal["hf", "ms"], str] | None:
    """Host and id of ``hf://owner/name``, ``ms://owner/name`` or ``hf://./folder``; None for any other path.

    :raises ValueError: what stands behind ``hf://`` can be neither an id nor a folder.
    """
    scheme, separator, rest = spec.partition("://")
    if not separator or scheme not in ("hf", "ms"):
        return None
    id_ = rest.removeprefix("datasets/").rstrip("/")
    if not Hub(id_).local and not _ID.fullmatch(id_):
        raise ValueError(f"must be {scheme}://owner/name, or {scheme}:// and a folder that begins with / or ./")
    return ("hf" if scheme == "hf" else "ms"), id_


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _batches(data: Any, size: int) -> Iterator[Any]:
    """RecordBatches of a Dataset or an IterableDataset."""
    for table in data.with_format("arrow").iter(batch_size=size):
        yield from table.combine_chunks().to_batches()


# --- finding and loading ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _load(hub: Hub) -> Any:
    """:raises DataError: the set cannot be had."""
    place, commit = _place(hub)
    # A snapshot in the cache is of the revision already.
    revision = commit if place == hub.id else None
    with _explain_errors(hub), _silence_datasets():
        from datasets import load_dataset

        return load_dataset(
            place, hub.subset, data_dir=hub.folder, split=hub.split, revision=revision, streaming=hub.streaming
        )


@functools.lru_cache(maxsize=64)
def _place(hub: Hub) -> tuple[str, str | None]:
    """What ``datasets`` is to load, an id or a folder, and the commit, if it is one of the Hugging Face hub's.

    :raises DataError: the set cannot be had.
    """
    if hub.host == "ms":
        return _download_from_modelscope(hub.id, hub.revision), None
    if hub.local:
        return str(hub.local), None
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        return _in_cache(hub)
    with _explain_errors(hub):
        return hub.id, HfApi().dataset_info(hub.id, revision=hub.revision, timeout=30).sha


def _in_cache(hub: Hub) -> tuple[str, str]:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(hub.id, repo_type="dataset", revision=hub.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        of = f" of revision {hub.revision}" if hub.revision else ""
        get = f"hf download --repo-type dataset {hub.id}" + (f" --revision {hub.revision}" if hub.revision else "")
        raise DataError(
            f"{hub}: is not in the cache {constants.HF_HUB_CACHE}{of}, and the hub cannot be reached. On a machine "
            f"with a network: {get} (HF_HOME moves the cache). Or give files of your own: data.path=FILE"
        ) from None
    return folder, Path(folder).name


@functools.cache
def is_reachable(endpoint: str) -> bool:
    """Whether anything answers there, asked once: the hub's own client tries for half a minute."""
    try:
        urlopen(Request(endpoint, method="HEAD"), timeout=5).close()
    except HTTPError:
        return True
    except (URLError, OSError):
        return False
    return True


def _download_from_modelscope(id_: str, revision: str | None) -> str:
    try:
        from modelscope.hub.snapshot_download import dataset_snapshot_download
    except ImportError:
        raise DataError(
            f"ms://{id_}: data sets of ModelScope need its package: pip install modelscope. "
            "Or download the set and give its files: data.path=FOLDER"
        ) from None
    try:
        return str(dataset_snapshot_download(id_, **({"revision": revision} if revision else {})))
    except Exception as error:  # a client of another house, whose errors have no common base
        raise DataError(f"ms://{id_}: cannot be downloaded from ModelScope: {first_line(error)}") from error


# --- what datasets says ----------------------------------------------------------------------------------------------


@contextmanager
def _silence_datasets() -> Iterator[None]:
    """Without the progress bars and the log of ``datasets``; its errors we tell ourselves."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, hidden = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not hidden:
            enable_progress_bars()


@contextmanager
def _explain_errors(hub: Hub) -> Iterator[None]:
    """:raises DataError: one line for what ``datasets`` and the hub's client raise."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except DataError:
        raise
    except GatedRepoError:
        raise DataError(f"{hub}: is gated: accept its licence on the hub, and set HF_TOKEN.") from None
    except RevisionNotFoundError:
        raise DataError(f"{hub}: has no revision {hub.revision!r} (data.hub.revision).") from None
    except RepositoryNotFoundError:
        raise DataError(
            f"{hub}: there is no such data set on the hub, or it is private: check the name, or set HF_TOKEN."
        ) from None
    except Exception as error:  # datasets, pyarrow and the client's HTTP library, whose errors have no common base
        _raise(hub, error)


def _raise(hub: Hub, error: Exception) -> NoReturn:
    said = first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
    if said.startswith("Unknown split"):
        said = said.replace('Unknown split "', 'no split "').rstrip(".") + " (data.hub.split)."
    elif "BuilderConfig" in said or "Config name is missing" in said:
        said = f"{' '.join(str(error).split())} (data.hub.subset)."
    raise DataError(f"{hub}: cannot be loaded: {said}") from error
