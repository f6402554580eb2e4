"""Writing files whole or not at all, and what identifies their content."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ftlab.rundir.names import WEIGHT_FILES


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write so that a reader, or a crash, sees the old file or the new one and nothing between."""
    with atomic_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """The same of a file that is written piece by piece: what is there at the end of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def move_folder(writing: Path, path: Path) -> None:
    """Rename a folder that was written beside ``path`` once all of it is on the disk: a power cut leaves all or
    nothing."""
    sync(writing)
    writing.replace(path)
    _sync(path.parent)


def link_folder(folder: Path, path: Path) -> None:
    """Have the files of a folder in another place too, which stays when they are removed from the first: as links to
    the same bytes, where the file system can, else as copies. Whole or not at all; nothing that is there is replaced.
    """
    if path.is_dir():
        return
    writing = temporary_folder(path)
    shutil.rmtree(writing, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, writing, copy_function=link_file)
    move_folder(writing, path)


def link_file(source: str | Path, target: str | Path) -> str:
    """Have a file in another place too, as a link to the same bytes where the file system can, else as a copy."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
    return str(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing for folders
            raise
    finally:
        os.close(descriptor)


def free_name(path: Path) -> Path:
    """``path``, or the first of ``path-2``, ``path-3``, ... in whose place there is nothing."""
    names = (path.with_name(f"{path.name}-{number}") if number > 1 else path for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def set_damaged_aside(path: Path) -> Path:
    """Move a damaged file out of the way of the one that will be written anew. Returns where it is then."""
    free = free_name(path.with_name(f"{path.name}.damaged"))
    path.rename(free)
    return free


def temporary_folder(path: Path) -> Path:
    """Where a folder is written before it is renamed to ``path``."""
    return path.with_name(f".{path.name}.tmp")


def sync(folder: Path) -> None:
    """Wait until every file below a folder is on the disk, and known there by its name."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in [*files, *{path.parent for path in files}, folder]:
        _sync(path)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def weight_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file of weights in a folder, by name."""
    return {
        path.name: sha256(path) for path in sorted(folder.iterdir()) if path.suffix in WEIGHT_FILES and path.is_file()
    }
