"""``ftlab package verify FILE``: whether an archive is what its list of hashes says and holds nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ftlab.base.progress import Progress
from ftlab.errors import PackageError
from ftlab.pretrained.files import ADAPTER, CONFIG
from ftlab.pretrained.weights import ADAPTER_FILES, MODEL_FILES
from ftlab.rundir.files import sha256
from ftlab.rundir.names import MODEL_CARD
from ftlab.use.package.archive import Contents, Member, read_archive, read_folder
from ftlab.use.package.documents import CHECK, METADATA, MODELFILE, SCRIPT, SUMS, Metadata, read_metadata, read_sums

_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".js", ".exe")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".msgpack")
_READ = (SUMS, METADATA, CHECK, CONFIG, ADAPTER, "tokenizer_config.json")
_LARGEST = 64 << 20  # bytes of one of those that are read into memory


@dataclass(frozen=True)
class Verified:
    """A package in which nothing is wrong.

    :param documents: its small files by name. :param note: of the archive's own hash.
    """

    file: Path
    contents: Contents
    metadata: Metadata
    documents: Mapping[str, bytes]
    note: str | None

    @property
    def values(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "file": str(self.file),
            "name": self.contents.top,
            "form": self.metadata.form,
            "files": len(self.contents.sha256),
            "bytes": sum(self.contents.sizes.values()),
            "base": self.metadata.base.name,
            "sha256": dict(self.contents.sha256),
            "note": self.note,
        }


def verify(file: Path, progress: Progress) -> Verified:
    """:param file: the archive, or the folder that it was unpacked to. Nothing is written and nothing of it is run.

    :raises PackageError: what is wrong with it, the first thing found.
    """
    found: dict[str, _Kept] = {}

    def keep(member: Member) -> BinaryIO | None:
        if member.name not in _READ:
            return None
        if member.size > _LARGEST:
            raise PackageError(f"{file}: {member.name} has {member.size:,} bytes, which no such file has.")
        return found.setdefault(member.name, _Kept())

    if file.is_dir():
        contents = read_folder(file, keep)
    else:
        size = file.stat().st_size if file.is_file() else 0
        with progress(f"reading {file.name}", size, "bytes", only_live=True) as bar:
            contents = read_archive(file, keep, bar.advance)
    documents = {name: kept.content for name, kept in found.items()}
    check_sums(contents, documents, str(file))
    metadata = check_contents(contents, documents, str(file))
    return Verified(file, contents, metadata, documents, _own_hash(file))


class _Kept(io.BytesIO):
    """What was written to it, also once it is closed."""

    content = b""

    def close(self) -> None:
        self.content = self.getvalue()
        super().close()


def check_sums(contents: Contents, documents: Mapping[str, bytes], where: str) -> None:
    """:raises PackageError: there is no list, it names other files than there are, or a file is another."""
    if SUMS not in documents:
        raise PackageError(f"{where} has no {SUMS} in its folder, so nothing says what it should hold.")
    listed = read_sums(documents[SUMS], where)
    there = {name: value for name, value in contents.sha256.items() if name != SUMS}
    for name in sorted(listed.keys() - there.keys()):
        raise PackageError(f"{where} lacks {name}, which {SUMS} names.")
    for name in sorted(there.keys() - listed.keys()):
        raise PackageError(f"{where} holds {name}, which {SUMS} does not name.")
    for name, value in there.items():
        if listed[name] != value:
            raise PackageError(
                f"{where}: {name} is not what was packed: its sha256 is {value}, and {SUMS} says {listed[name]}."
            )


def check_contents(contents: Contents, documents: Mapping[str, bytes], where: str) -> Metadata:
    """:raises PackageError: it holds code or pickles, or lacks what its form needs."""
    names = set(contents.sha256)
    for name in sorted(names):
        suffix = Path(name).suffix.lower()
        if suffix in _PICKLES:
            raise PackageError(f"{where} holds {name}, which may run code when it is loaded; weights are safetensors.")
        if suffix in _CODE and name != SCRIPT:
            raise PackageError(f"{where} holds {name}: a package brings no code but {SCRIPT}, which nothing here runs.")
    for name in (CONFIG, ADAPTER, "tokenizer_config.json"):
        if name in documents and "auto_map" in _object(documents[name], name, where):
            raise PackageError(f"{where}: {name} names code of its own (auto_map), which a package has not.")
    if METADATA not in documents:
        raise PackageError(f"{where} has no {METADATA}: it is no package of ftlab.")
    metadata = read_metadata(documents[METADATA], where)
    for lacking in _lacking(metadata, names):
        raise PackageError(f"{where} is of format {metadata.form} and has no {lacking}.")
    return metadata


def _lacking(metadata: Metadata, names: set[str]) -> Iterator[str]:
    if MODEL_CARD not in names:
        yield MODEL_CARD
    if metadata.form == "gguf":
        if not any(name.endswith(".gguf") for name in names):
            yield "file of GGUF"
        if MODELFILE not in names:
            yield MODELFILE
        return
    config, weights = (ADAPTER, ADAPTER_FILES[0]) if metadata.form == "peft" else (CONFIG, MODEL_FILES[0])
    if config not in names:
        yield config
    if not names & {weights, f"{weights}.index.json"}:
        yield weights
    if "tokenizer_config.json" not in names:
        yield "tokenizer_config.json"


def _object(text: bytes, name: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise PackageError(f"{where}: {name} is no JSON object.")
    return found


def _own_hash(file: Path) -> str | None:
    """What the file beside an archive says of it. :raises PackageError: it says something else."""
    beside = file.with_name(f"{file.name}.sha256")
    if not file.is_file() or not beside.is_file():
        return None
    wanted = beside.read_text(encoding="utf-8", errors="replace").split()[:1]
    if wanted != [sha256(file)]:
        raise PackageError(f"{file} is not the archive that {beside.name} beside it tells of.")
    return f"its hash is that of {beside.name}"
