"""What was found out about the rows of a file, kept in ``data.cache`` as long as file and code are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftlab.data.sources.blocks import Location
from ftlab.data.sources.files import Files, kind_of
from ftlab.errors import DataError
from ftlab.rundir import seals


def remembered(cache: str | None, suffix: str, read: list[Any], make: Callable[[], bytes]) -> bytes:
    """What ``make`` returns, or did before.

    :param cache: ``data.cache``. :param suffix: of the file's name. :param read: all that it depends on, as JSON.
    :raises DataError: the cache cannot be written.
    """
    if cache is None:
        return make()
    key = hashlib.sha256(json.dumps([*read, _code()], sort_keys=True).encode()).hexdigest()[:32]
    path = Path(cache).expanduser() / "rows" / f"{key}.{suffix}"
    stored = seals.read_sealed(path)
    if stored is None:
        stored = make()
        _store(path, stored)
    return stored


def count_rows(location: Location, cache: str | None) -> int:
    """How many rows there are. To count those of a JSON list or a table of CSV means to parse all of it."""
    if not isinstance(location, Files) or not any(kind_of(path) in ("json", "csv") for path in location.paths):
        return location.count()
    return int(remembered(cache, "count", [location.fingerprint()], lambda: str(location.count()).encode()))


def _code() -> str:
    """Of what turns a row into a record, as it is now."""
    folder = Path(__file__).parent
    files = sorted([*(folder / "formats").glob("*.py"), *(folder / "sources").glob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _store(path: Path, content: bytes) -> None:
    try:
        if path.is_dir():
            seals.remove(path)
        seals.write_sealed(path, content)
    except OSError as error:
        raise DataError(
            f"data.cache={path.parent.parent} cannot be written ({error.strerror}). Give another folder, or "
            "data.cache=null."
        ) from None
