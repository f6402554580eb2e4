"""The archive of a package: the same bytes from the same files, and read as if a stranger had made it.

Of tar only what :func:`write_archive` writes is read: files and folders below one folder, in headers of 512 bytes.
Whatever may lead elsewhere or grow without end (links, devices, sparse files, extended headers) is refused before any
of it is written, and what is unpacked is bounded by the size of the archive.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ftlab.errors import PackageError
from ftlab.rundir.documents import open_regular
from ftlab.rundir.files import atomic_file

SUFFIX = ".tar.gz"
_BLOCK = 512  # bytes of a header; what is in a file is filled up to a multiple
_CHUNK = 1 << 20
_LEVEL = 1  # of compression: weights gain little by more, and take minutes
_MEMBERS = 4096  # more than any package has
_RATIO, _FREE = 100, 64 << 20  # what is unpacked may be so many times the archive, and so many bytes besides
_DEEPEST = 8  # folders
_LONGEST = 100  # letters of a name in the header of a member
_PART = re.compile(r"[A-Za-z0-9_+=@-][A-Za-z0-9_.+=@-]*|\.[A-Za-z0-9_+=@-][A-Za-z0-9_.+=@-]*")
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.FIFOTYPE: "a pipe", tarfile.GNUTYPE_SPARSE: "a sparse file",
    tarfile.XHDTYPE: "an extended header", tarfile.XGLTYPE: "an extended header",
    tarfile.GNUTYPE_LONGNAME: "an extended header", tarfile.GNUTYPE_LONGLINK: "an extended header",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a package. :param name: below the package's one folder. :param size: in bytes."""

    name: str
    size: int


def write_archive(folder: Path, file: Path, top: str, advance: Callable[[int], None]) -> None:
    """Write all files below a folder, whole or not at all: sorted, without times, owners and modes of this machine.

    :param top: the folder that they are in once they are unpacked. :param advance: called with the bytes done.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert all(len(f"{top}/{name}") <= _LONGEST for name in names), "a longer one takes an extended header"
    with (
        atomic_file(file) as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name in names:
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode = (folder / name).stat().st_size, 0o644
            with (folder / name).open("rb") as content:
                archive.addfile(member, _Told(content, advance))


class _Told:
    """A file that tells how much of it was read."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]):
        self._file, self._advance = file, advance

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self._advance(len(found))
        return found


def name_problem(name: str) -> str | None:
    """Why a file of a package cannot have this name, below its folder; None where it can."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or "\\" in name:
        return "leads out of the package"
    if ".." in parts:
        return "leads out of the package"
    if not all(_PART.fullmatch(part) for part in parts) or len(parts) > _DEEPEST:
        return "is no name that a package has"
    return None


@dataclass(frozen=True)
class Contents:
    """What an archive, or a folder that one was unpacked to, holds.

    :param top: the one folder. :param sha256: of each file by its name below it. :param sizes: in bytes.
    """

    top: str
    sha256: Mapping[str, str]
    sizes: Mapping[str, int]


Keep = Callable[[Member], BinaryIO | None]  # where the bytes of a member are written beside being hashed, if anywhere


def read_archive(file: Path, keep: Keep, advance: Callable[[int], None]) -> Contents:
    """Read an archive once, from its beginning to its end.

    :param keep: for each member in its order; what it gives is closed when the member is done.
    :param advance: called with the bytes of the archive that are read.
    :raises PackageError: it is none, is cut short, or holds what a package does not.
    """
    if file.exists() and not file.is_file():
        raise PackageError(f"{file} is no file.")
    try:
        with open_regular(file) as raw:
            size = file.stat().st_size
            return _Reader(file, _Bounded(file, raw, size, advance), keep).contents()
    except FileNotFoundError:
        raise PackageError(f"{file} does not exist.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "is cut short" if isinstance(error, EOFError) else f"is no {SUFFIX} archive, or damaged ({error})"
        raise PackageError(f"{file} {reason}.") from None
    except OSError as error:
        raise PackageError(f"{file} cannot be read: {error.strerror or error}.") from None


class _Bounded:
    """What a compressed file holds, as long as that is in some proportion to its size."""

    def __init__(self, file: Path, raw: BinaryIO, size: int, advance: Callable[[int], None]):
        self._file, self._raw, self._gzip = file, raw, gzip.GzipFile(fileobj=raw, mode="rb")
        self._left, self._at, self._advance = _RATIO * size + _FREE, 0, advance

    def check(self, size: int, name: str) -> None:
        """:raises PackageError: so many bytes cannot come."""
        if not 0 <= size <= self._left:
            raise PackageError(
                f"{self._file}: {name} would be {size:,} bytes, and with that more than {_RATIO} times the archive, "
                "which no package is."
            )

    def read(self, size: int) -> bytes:
        """At most so many bytes, fewer only at the end."""
        self.check(size, "what follows")
        found = self._gzip.read(size)
        self._left -= len(found)
        self._advance(self._raw.tell() - self._at)
        self._at = self._raw.tell()
        return found

    def read_all(self, size: int) -> bytes:
        found = self.read(size)
        if len(found) < size:
            raise EOFError
        return found


class _Reader:
    def __init__(self, file: Path, stream: _Bounded, keep: Keep):
        self._file, self._stream, self._keep = file, stream, keep
        self._top: str | None = None
        self._sha256: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._taken: dict[str, str] = {}  # lower case -> file or folder: not every disk tells a from A

    def contents(self) -> Contents:
        for _ in range(_MEMBERS):
            block = self._stream.read_all(_BLOCK)
            if not block.strip(b"\0"):
                self._check_end()
                break
            self._member(block)
        else:
            raise self._refused(f"has more than {_MEMBERS:,} members")
        if self._top is None or not self._sha256:
            raise self._refused("holds no file")
        return Contents(self._top, self._sha256, self._sizes)

    def _member(self, block: bytes) -> None:
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
        except tarfile.HeaderError as error:
            raise self._refused(f"is no tar archive, or damaged ({error})") from None
        shown = header.name if len(header.name) <= _LONGEST else f"{header.name[:_LONGEST]}..."
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            kind = _KINDS.get(header.type, f"of kind {header.type!r}")
            raise self._refused(f"holds {shown!r}, which is {kind}; a package has plain files alone")
        if problem := name_problem(header.name.rstrip("/")):
            raise self._refused(f"holds {shown!r}, which {problem}")
        top, _, name = header.name.rstrip("/").partition("/")
        if self._top not in (None, top):
            raise self._refused(f"holds {shown!r} beside the folder {self._top}; a package is one folder")
        self._top = top
        if header.isdir():
            if header.size:
                raise self._refused(f"holds the folder {shown!r} with a content")
            self._take(name, "folder")
            return
        if not name:
            raise self._refused(f"holds {shown!r}, which is in no folder")
        self._take(name, "file")
        self._stream.check(header.size, shown)
        self._read(Member(name, header.size))

    def _take(self, name: str, kind: str) -> None:
        """:raises PackageError: something else has the name, or that of a folder above it."""
        *above, path = itertools.accumulate(name.lower().split("/"), "{}/{}".format)
        if any(self._taken.setdefault(folder, "folder") == "file" for folder in above):
            raise self._refused(f"holds {name!r} below a file")
        if path in self._taken and "file" in (kind, self._taken[path]):
            raise self._refused(f"holds {name!r} twice")
        self._taken[path] = kind

    def _read(self, member: Member) -> None:
        kept, found, left = self._keep(member), hashlib.sha256(), member.size
        try:
            while left:
                chunk = self._stream.read_all(min(left, _CHUNK))
                found.update(chunk)
                if kept is not None:
                    kept.write(chunk)
                left -= len(chunk)
        finally:
            if kept is not None:
                kept.close()
        self._stream.read_all(-member.size % _BLOCK)
        self._sha256[member.name], self._sizes[member.name] = found.hexdigest(), member.size

    def _check_end(self) -> None:
        """Nothing but zeros follows the first block of zeros, to the end of a record of tar."""
        found = self._stream.read(tarfile.RECORDSIZE + 1)
        if len(found) > tarfile.RECORDSIZE or found.strip(b"\0"):
            raise self._refused("goes on after its end")

    def _refused(self, reason: str) -> PackageError:
        return PackageError(f"{self._file} {reason}.")


def unpack(file: Path, folder: Path, advance: Callable[[int], None]) -> Contents:
    """Write the files of an archive below a folder that is empty.

    :raises PackageError: as of :func:`read_archive`, or they do not fit on the disk.
    """

    def keep(member: Member) -> BinaryIO:
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.size > shutil.disk_usage(folder).free:
            raise PackageError(f"{file}: {member.name} has {member.size:,} bytes, and there is no room in {folder}.")
        return path.open("xb")

    return read_archive(file, keep, advance)


def read_folder(folder: Path, keep: Keep) -> Contents:
    """The same of a folder that an archive was unpacked to. :raises PackageError: it holds what a package does not."""
    sha256, sizes = dict[str, str](), dict[str, int]()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            kind = "a link" if path.is_symlink() else "no file"
            raise PackageError(f"{folder} holds {name!r}, which is {kind}; a package has plain files alone.")
        if path.is_dir():
            continue
        member = Member(name, path.stat().st_size)
        with path.open("rb") as content:
            sha256[name], sizes[name] = hashlib.file_digest(content, "sha256").hexdigest(), member.size
        if (kept := keep(member)) is not None:
            with kept, path.open("rb") as content:
                shutil.copyfileobj(content, kept)
    return Contents(folder.resolve().name, sha256, sizes)


def nothing(*_: Any) -> None:
    """For who wants no member kept, or no progress told."""


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
