"""The lock of a run directory, held by the one process that writes into it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from ftlab.errors import RunDirError

_PATIENCE = 0.3  # seconds: whoever only asks whether the lock is held, holds it for a moment
_PAUSE = 0.01


class RunLock:
    """Taken before the first write into a run directory, by everything that writes there. It ends with the process,
    however that ends.

    :param folder: the run directory, which exists. :param file: the lock file in it.
    """

    def __init__(self, folder: Path, file: Path):
        self._folder, self._file = folder, file
        self._opened: IO[str] | None = None

    def __enter__(self) -> RunLock:
        """:raises RunDirError: another process, or another thread of this one, holds it.
        :raises OSError: the lock file cannot be written."""
        until = time.monotonic() + _PATIENCE
        while not self._is_taken():
            if time.monotonic() > until:
                raise RunDirError(
                    f"Another process is at work in {self._folder}. Wait for it, or start beside it: run.if_exists=new."
                )
            time.sleep(_PAUSE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._opened is not None
        self._opened.close()

    def _is_taken(self) -> bool:
        opened = self._file.open("a")
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder before may have removed it together with a run directory in which nothing had happened.
            if os.fstat(opened.fileno()).st_ino == self._file.stat().st_ino:
                self._opened = opened
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        opened.close()
        return False


def is_held(file: Path) -> bool:
    """Whether a process holds the lock; also where that cannot be found out."""
    try:
        with file.open() as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not meet each other
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
