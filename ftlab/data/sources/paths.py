"""Which files a user means: a file, a folder or a pattern, and whether they can be read. Reads none of them."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ftlab.base import filenames
from ftlab.data.sources.files import KINDS, TABLES, Files, kind_of
from ftlab.errors import DataError

# Beside the data in a folder: what `datasets` saves there, and what is there to be read by people.
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_ABOUT = re.compile(r"(readme|license|licence|notice|changelog|citation|contributing)\b", re.IGNORECASE)
# Files of a folder that are documents for format text. A pattern takes a file of any other name too.
DOCUMENTS = frozenset({
    ".c", ".cc", ".clj", ".cmake", ".cpp", ".cs", ".css", ".cu", ".cuh", ".dart", ".el", ".erl", ".ex", ".exs", ".f90",
    ".go", ".h", ".hpp", ".hs", ".html", ".java", ".jl", ".js", ".jsx", ".kt", ".lua", ".m", ".md", ".ml", ".mm",
    ".php", ".pl", ".proto", ".ps1", ".py", ".pyi", ".pyx", ".r", ".rb", ".rs", ".rst", ".scala", ".sh", ".sql",
    ".swift", ".tex", ".toml", ".ts", ".tsx", ".vim", ".vue", ".xml", ".yaml", ".yml", ".zig",
})  # fmt: skip
_SPLIT = re.compile(r"(?:^|[-_./])(train|validation|valid|val|dev|test|eval)(?=[-_./]|$)", re.IGNORECASE)


def find(specs: str | Sequence[str], base: Path, where: str, hint: str = "", documents: bool = False) -> Files:
    """The files that the specs name, in their order; those of a folder or pattern by name, hidden ones left out.

    :param base: what relative ones start from. :param where: the key to name in messages. :param hint: what to do
        about a file that does not exist. :param documents: whether the format is text: then what is no file of rows,
        such as a ``.py``, is one text as a whole.
    :raises DataError: a file does not exist, is empty, or cannot be read.
    """
    # Path.expanduser raises where ~NAME names nobody.
    whole = [base / os.path.expanduser(spec) for spec in _as_list(specs)]  # noqa: PTH111
    found = [_find(path, where, hint, documents) for path in whole]
    labels = [one.label for one in found if one.label]
    return Files(tuple(path for one in found for path in one.paths), labels[0] if len(found) == 1 and labels else "")


def _as_list(specs: str | Sequence[str]) -> Sequence[str]:
    return [specs] if isinstance(specs, str) else specs


def _find(path: Path, where: str, hint: str, documents: bool) -> Files:
    try:
        return _existing(path, where, hint, documents)
    except OSError as error:  # a name that is too long, a folder on the way that may not be entered
        raise DataError(f"{where}: {error.filename or path} cannot be read: {error.strerror}.") from None


def _existing(path: Path, where: str, hint: str, documents: bool) -> Files:
    if path.is_dir():
        return _files_in_folder(path, where, documents)
    if not path.exists() and glob.has_magic(str(path)):
        root = next(parent for parent in path.parents if parent.is_dir())  # whose name is no pattern, whatever is in it
        pattern = str(path.relative_to(root))
        found = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 (Path.glob takes hidden files too)
        files = [root / match for match in found if not (root / match).is_dir()]
        if not files:
            raise DataError(f"{where}: no file matches {path}.{hint}")
        for file in files:
            _check_name(file, where, documents)
        return _non_empty(files, path, where)
    if not path.exists() and not path.is_symlink():
        raise DataError(f"{where}: {filenames.show(str(path))} does not exist.{hint}")
    _check_readable(path, where)
    if path.stat().st_size == 0:
        raise DataError(f"{where}: {path} is empty.")
    _check_name(path, where, documents)
    return Files((path,))


def _files_in_folder(folder: Path, where: str, documents: bool) -> Files:
    names = [name for name in _visible_files(folder) if name.name not in _NO_ROWS and not _ABOUT.match(name.name)]
    rows = [name for name in names if kind_of(name) != "document"]
    texts = [name for name in names if name.suffix.lower() in DOCUMENTS] if documents else []
    if rows and texts:
        both = " and ".join(f"{len(of)} files {_suffixes(of)}" for of in (rows, texts))
        raise DataError(
            f"{where}: {folder} holds {both}; of the first each line or entry is a row, of the others each file is. "
            f"Say which with a pattern: '{folder}/**/*{_most_common(texts)}'"
        )
    if not rows and not texts:
        raise DataError(f"{where}: the folder {folder} holds no file that can be read. {_can_be_read(documents)}")
    if rows:
        _check_one_split(rows, folder, where)
    return _non_empty([folder / name for name in rows or texts], folder, where)


def special_kind(path: Path) -> str:
    """What a path is that is neither a file nor a folder, in words."""
    if path.is_fifo():
        return "a FIFO (a named pipe)"
    return "a socket" if path.is_socket() else "a device"


def _raise(error: OSError) -> NoReturn:
    """os.walk passes over what it cannot read unless it is told otherwise."""
    raise error


def _visible_files(folder: Path) -> list[Path]:
    """Of every file below, relative to the folder, unless it or its folder is hidden. Links are followed, once."""
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
        found += [Path(parent, name).relative_to(folder) for name in files if not name.startswith(".")]
    return found


def _non_empty(files: list[Path], label: Path, where: str) -> Files:
    """Those that are not empty, as a shard may be."""
    for file in files:
        _check_readable(file, where)
    filled = tuple(sorted(file for file in files if file.stat().st_size))
    if not filled:
        raise DataError(f"{where}: every file of {label} is empty.")
    return Files(filled, str(label))


def _check_one_split(rows: list[Path], folder: Path, where: str) -> None:
    """A data set's folder is often a folder of its splits, and nobody wants to train on the test."""
    splits = sorted({match[1].lower() for name in rows for match in _SPLIT.finditer(name.as_posix())})
    if "train" in splits and len(splits) > 1:
        raise DataError(
            f"{where}: {folder} holds files of several splits ({', '.join(splits)}). Give those to train on alone, as "
            f"a folder or a pattern ('{folder}/**/*train*'), the others as data.split.validation and data.split.test; "
            f"or take the train split of the whole with data.path=hf://{folder.absolute()}"
        )


def check_name(path: Path, where: str) -> None:
    """:raises DataError: a name on the path is not UTF-8."""
    if not filenames.is_utf8(str(path)):
        named = filenames.show(str(path))
        raise DataError(f"{where}: the name of {named} is not UTF-8. {filenames.rename_advice(path)}")


def _check_readable(path: Path, where: str) -> None:
    """:raises DataError: there is no file whose bytes can be read, or its name cannot be written down."""
    check_name(path, where)
    if path.exists() and not path.is_file():
        raise DataError(f"{where}: {path} is {special_kind(path)}, not a file. Write its rows into a file first.")
    if not os.access(path, os.R_OK):
        reason = "permission denied" if path.exists() else "it is a link to a file that does not exist"
        raise DataError(f"{where}: {path} cannot be read: {reason}.")


def _check_name(path: Path, where: str, documents: bool) -> None:
    is_gzip, kind = path.suffix.lower() == ".gz", kind_of(path)
    if is_gzip and kind in TABLES:
        raise DataError(f"{where}: {path}: unpack it first (gunzip); {kind} is read in place.")
    if kind == "document" and not documents:
        raise DataError(f"{where}: {path}: {_can_be_read(documents)}")


def _can_be_read(documents: bool) -> str:
    known = list(KINDS)
    rows = f"Files ending in {', '.join(known[:-1])} or {known[-1]} can be read, all but the last three also as .gz"
    if documents:
        return f"{rows}; and source code and prose (.py, .md, ...), a file a row."
    return f"{rows}. With data.format=text any other file is one text."


def _most_common(names: list[Path]) -> str:
    return Counter(name.suffix for name in names).most_common(1)[0][0]


def _suffixes(names: list[Path]) -> str:
    counted = Counter(name.suffix for name in names).most_common(3)
    return f"({', '.join(suffix for suffix, _ in counted)})"
