"""The lock of a run directory: whoever writes into one holds it, so that one process at a time does."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path
from types import TracebackType

from ftlab.errors import RunDirError
from ftlab.rundir.documents import kind_of, open_regular

FILE = ".lock"
# Seconds that a lock is tried for. Who only asks whether it is held has it for an instant, and may do so at any time.
_PATIENCE = 0.5
_PAUSE = 0.01


class LockHeldError(RunDirError):
    """Somebody else holds the lock."""


class RunLock:
    """The right to write into a run directory: for one holder at a time, of this process, another or another machine.

    It is advisory, belongs to the directory by whatever path that is reached, and ends with the process at the latest.
    A context manager; one process may hold those of many directories.

    :param folder: the run directory. :param make: whether one that is not there is made.
    :param patience: seconds that the lock is tried for.
    """

    def __init__(self, folder: Path, make: bool = False, patience: float = _PATIENCE):
        self.folder, self._make, self._patience = folder, make, patience
        self._has_made = False
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        :raises LockHeldError: somebody holds it, and still does after half a second.
        :raises RunDirError: the directory cannot be made or written, or its file system has no locks.
        """
        assert self._descriptor is None, "it is held already, by this very object"
        until = time.monotonic() + self._patience
        while not self._is_taken():
            if time.monotonic() > until:
                raise held_by_another(self.folder)
            time.sleep(_PAUSE)

    def release(self) -> None:
        """Give the lock back. A directory that it made, and that nothing was written into, goes too."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._has_made and [path.name for path in self.folder.iterdir()] == [FILE]:
                (self.folder / FILE).unlink()
                self.folder.rmdir()
        except OSError:
            pass  # it was removed, or somebody has put something there
        finally:
            os.close(descriptor)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir()
            self._has_made = True
        except FileExistsError:
            pass
        except FileNotFoundError:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._make_folder()

    def _is_taken(self) -> bool:
        """Whether one try got the lock."""
        path = self.folder / FILE
        _check_file(path)
        try:
            if self._make:
                self._make_folder()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if self._make:
                return False  # whoever had it removed the directory this instant
            raise RunDirError(f"{self.folder} is no longer there.") from None
        except OSError as error:
            raise not_writable(self.folder, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(descriptor, path):
                self._descriptor, descriptor = descriptor, -1
                return True
            return False  # of a directory that its last holder removed
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise RunDirError(
                f"The file system of run.dir={self.folder} has no locks ({error.strerror}), and without one two "
                "processes could write there at once. Give a folder on another with run.dir=FOLDER."
            ) from None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _check_file(path: Path) -> None:
    """:raises RunDirError: something else is where the lock is, which could be held in two places or in none."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # it is made, or told
    if not stat.S_ISREG(mode):
        raise RunDirError(f"{path} is {kind_of(mode)}, where a run has the file of its lock. Move it away.")


def is_held(folder: Path) -> bool:
    """Whether a process is at work in a run directory; also where that cannot be found out."""
    try:
        with open_regular(folder / FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not meet each other
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return (folder / FILE).is_file()  # what is no file is nobody's lock
    return False


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def held_by_another(folder: Path) -> LockHeldError:
    """What there is to say of a run directory that somebody else has the lock of."""
    return LockHeldError(
        f"Another process is at work in {folder}. Wait for it, or start another run beside it: the command of a run "
        "with run.if_exists=new."
    )


def not_writable(folder: Path, error: OSError) -> RunDirError:
    """What there is to say of a run directory that cannot be written."""
    return RunDirError(f"run.dir={folder} cannot be written: {error.strerror}. Give another with run.dir=FOLDER.")
