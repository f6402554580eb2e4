"""A local file opened, unpacked, and read in lines or whole: never more than one row of it in memory."""

from __future__ import annotations

import codecs
import gzip
import io
import shlex
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ftlab.errors import DataError

LARGEST_ROW = 64 << 20  # bytes: what is larger is no row, but a file of another kind, or gzip made to fill memory
PIECE = 1 << 20
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

_POINTER = b"version https://git-lfs.github.com/spec/"
_ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2",
             b"\xfd7zXZ": "xz"}  # fmt: skip

Item = tuple[int, object, int]  # number of a row, what stands there, its bytes


@contextmanager
def open_file(path: Path, unpacks: bool = True) -> Iterator[BinaryIO]:
    """:param unpacks: whether a name that ends in .gz is read as what is in it.
    :raises DataError: the file cannot be read, or is gzip that is cut short or damaged."""
    try:
        with path.open("rb", buffering=PIECE) as file:
            is_gzip = unpacks and _is_gzip(path)
            yield io.BufferedReader(gzip.GzipFile(fileobj=file), PIECE) if is_gzip else file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        reason = str(error).rstrip(".")
        raise DataError(f"{path}: the gzip is cut short or damaged ({reason}). Copy or download it again.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def kind_suffix(path: Path) -> str:
    """How the name of a file ends once it is unpacked, in small letters."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_content(path: Path) -> None:
    """:raises DataError: the file begins as what Git LFS leaves in its place does, or as something that is packed."""
    with open_file(path, unpacks=False) as file:
        begin = file.read(64)
    if begin.startswith(_POINTER):
        raise DataError(
            f"{path} is a pointer of Git LFS, not the file itself: the repository was cloned without its large files. "
            "In its folder: git lfs pull (or download the file anew)."
        )
    packed = next((name for mark, name in _ARCHIVES.items() if begin.startswith(mark)), None)
    if packed is not None and not (packed == "gzip" and _is_gzip(path)):
        mend = f"rename it to {path.name}.gz" if packed == "gzip" else "unpack it"
        raise DataError(f"{path} is {packed}, whatever its name says: {mend}.")


def check_encoding(path: Path) -> None:
    """:raises DataError: as :func:`check_content` does; or it begins as UTF-16 or UTF-32 does, or with zeros alone."""
    check_content(path)
    with open_file(path) as file:
        begin = file.read(64)
    if len(begin) >= 4 and not any(begin):
        raise DataError(f"{path}: begins with zeros, which no text does; it may be damaged. Copy or download it again.")
    encoding = next((name for mark, name in _MARKS if begin.startswith(mark)), None)
    if encoding is None and len(begin) >= 4 and b"\0" in begin:
        encoding = next((name for odd, name in ((1, "UTF-16LE"), (0, "UTF-16BE")) if not any(begin[odd::2])), None)
    if encoding is not None:
        raise DataError(f"{path}: the file is {encoding}, not UTF-8. {convert_advice(path, encoding)}")


def convert_advice(path: Path | str, encoding: str) -> str:
    """Return the command that writes a file anew in UTF-8."""
    source, target = shlex.quote(str(path)), shlex.quote(f"{Path(path).stem}.utf8{Path(path).suffix}")
    kind = "If it is Latin-1, convert" if encoding == "LATIN1" else "Convert"
    if Path(path).suffix.lower() == ".gz":
        target = shlex.quote(f"utf8.{Path(path).name}")
        return f"{kind} it: gunzip -c {source} | iconv -f {encoding} -t UTF-8 | gzip > {target}"
    return f"{kind} it: iconv -f {encoding} -t UTF-8 {source} > {target}"


def raw_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Every line with its end, the mark of UTF-8 taken off.

    :raises DataError: a line is larger than a row may be.
    """
    number = 1
    while line := file.readline(LARGEST_ROW + 1):
        if len(line) > LARGEST_ROW:
            raise DataError(too_large(f"{path}, line {number}"))
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        number += 1


def lines(path: Path, end: bytes = b"\n") -> Iterator[Item]:
    """Every line that is not blank. :param end: what ends it, and is no part of it."""
    with open_file(path) as file:
        for number, line in enumerate(raw_lines(path, file), 1):
            if line.strip():
                yield number, line.rstrip(end), len(line)


def document(path: Path) -> Iterator[Item]:
    """The whole file, unless it is blank."""
    with open_file(path) as file:
        content = file.read(LARGEST_ROW + 1)
    if len(content) > LARGEST_ROW:
        raise DataError(too_large(str(path), "file that is one text"))
    content = content.removeprefix(codecs.BOM_UTF8)
    if content.strip():
        yield 1, content, len(content)


def too_large(where: str, what: str = "row") -> str:
    """What to say of more bytes in a row than are ever read."""
    largest = f"{LARGEST_ROW >> 20} MB"
    return f"{where}: is larger than {largest}, the most that a {what} may have. Split it, or take it out."
