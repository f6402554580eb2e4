"""Content that is checked when it is opened: what a crash, a disk or a hand has changed is not taken for what it was.

A folder is sealed by a file of hashes in it, a single file by the hash at its end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from ftlab.errors import RunDirError
from ftlab.rundir.documents import read_json
from ftlab.rundir.files import sha256, sync, write_atomic

_BYTES = hashlib.sha256().digest_size


def seal_folder(folder: Path, name: str) -> None:
    """Write the hashes of all files below a folder into its file ``name``, once the files are on the disk."""
    hashes = {str(path.relative_to(folder)): sha256(path) for path in _files(folder, name)}
    sync(folder)
    write_atomic(folder / name, json.dumps({"sha256": hashes, "seal": _digest(hashes)}, indent=2) + "\n")


def sealed_files(folder: Path, name: str) -> dict[str, str] | None:
    """The hash of every file that a folder was sealed with; None where there is no seal that can be read."""
    seal = folder / name
    if not seal.is_file():
        return None
    try:
        found = read_json(seal, "")
    except RunDirError:
        return None
    hashes = found.get("sha256")
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        return None
    return hashes if found.get("seal") == _digest(hashes) else None


def broken_file(folder: Path, name: str, is_closed: bool = False) -> str | None:
    """The first file of a sealed folder that is gone or is not what it was; None where all are.

    :param name: of the file of hashes, which is itself what is broken where it cannot be read.
    :param is_closed: whether a file that the seal does not name breaks it.
    """
    hashes = sealed_files(folder, name)
    if hashes is None:
        return name
    if is_closed:
        unnamed = {str(path.relative_to(folder)) for path in _files(folder, name)} - hashes.keys()
        if unnamed:
            return min(unnamed)
    return next((file for file, value in hashes.items() if not _is(folder / file, value)), None)


def is_file_whole(folder: Path, name: str, file: str) -> bool:
    """Whether one file of a sealed folder is what it was; the others are not read."""
    hashes = sealed_files(folder, name) or {}
    return file in hashes and _is(folder / file, hashes[file])


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file whose last bytes are the hash of what precedes them."""
    write_atomic(path, content + hashlib.sha256(content).digest())


def read_sealed(path: Path) -> bytes | None:
    """What :func:`write_sealed` wrote; None where that is gone or damaged."""
    try:
        found = path.read_bytes()
    except OSError:
        return None
    content, seal = found[:-_BYTES], found[-_BYTES:]
    return content if hashlib.sha256(content).digest() == seal else None


def remove(path: Path) -> None:
    """Remove whatever is at ``path``: a file, a folder with all that is in it, or a link but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(hashes: dict[str, str]) -> str:
    """The hash over all of them: a list that has lost an entry is told from a whole one."""
    return hashlib.sha256("\n".join(f"{hash_} {file}" for file, hash_ in sorted(hashes.items())).encode()).hexdigest()


def _files(folder: Path, name: str) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / name)


def _is(file: Path, hash_: str) -> bool:
    try:
        return file.is_file() and sha256(file) == hash_
    except OSError:
        return False
