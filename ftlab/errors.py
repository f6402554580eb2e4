"""One exception tree, and "did you mean".

Every error that a user can cause derives from :class:`FtlabError`; Hydra prints it without a traceback because it is
also a ``CompactHydraException``. Whatever else escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hydra.errors import CompactHydraException


class FtlabError(CompactHydraException):
    """The root. ``str(error)`` is the whole message for the user; ``exit_code`` is what the process ends with."""

    exit_code = 1

    def __reduce__(self) -> tuple[object, ...]:
        # Sweeps send failures between processes; rebuilding from the message alone never fails.
        return (_rebuild, (type(self), str(self)))


def _rebuild(cls: type[FtlabError], message: str) -> FtlabError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    return error


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with the config.

    :param key: dotted key or group, as the user would type it.
    :param value: what was given.
    :param reason: what is wrong, or what is allowed.
    :param suggestions: near names, best first.
    """

    key: str
    reason: str
    value: object = None
    suggestions: Sequence[str] = field(default=())

    def __str__(self) -> str:
        given = f"{self.key}={self.value}" if self.value is not None else self.key
        hint = f" Did you mean {' or '.join(self.suggestions)}?" if self.suggestions else ""
        return f"{given}: {self.reason}{hint}"


class ConfigError(FtlabError, ValueError):
    """Mistakes in the config, all of them at once."""

    def __init__(self, mistakes: Sequence[Mistake]):
        self.mistakes = tuple(mistakes)
        count = f"{len(self.mistakes)} mistakes" if len(self.mistakes) > 1 else "A mistake"
        super().__init__(
            "\n".join([f"{count} in the config:", *(f"  - {mistake}" for mistake in self.mistakes)])
            + "\nSee ftlab --help for choices, ftlab explain KEY for where a value comes from."
        )


class NotReadyError(FtlabError, RuntimeError):
    """The config is good, but something it needs is not here: a file, a model, a part that this build lacks."""


class DataError(FtlabError, ValueError):
    """A data file or row that cannot be used; names the file, the row and the reason."""


class RunDirError(FtlabError, OSError):
    """The run directory cannot be made, written, read or continued."""


class PackageError(FtlabError, ValueError):
    """A package that is damaged, was tampered with, is none, or does not do what the run did."""


class NotReproducedError(FtlabError, RuntimeError):
    """A run that was run again did not come to the same."""


class RankFailedError(FtlabError, RuntimeError):
    """One of the processes of a run failed; what it says, and the exit code that it ended with."""

    def __init__(self, message: str, exit_code: int = 1):
        self.exit_code = exit_code
        super().__init__(message)


class NodeLostError(FtlabError, RuntimeError):
    """One of the machines of a run has ended, or cannot be reached."""


class JobFailedError(FtlabError, RuntimeError):
    """A run that was handed to a cluster did not come to its end there."""


class RanksDifferError(FtlabError, RuntimeError):
    """The processes of a run are not what was planned, or not the same."""


class RankHangsError(FtlabError, RuntimeError):
    """One of the processes of a run does not go on."""


class OtherRankError(FtlabError):
    """The first process of a run failed at what all wait for; it tells how."""


class DivergedError(FtlabError, ArithmeticError):
    """The loss is no longer a number."""


class OutOfMemoryError(FtlabError, MemoryError):
    """Memory ran out, and a smaller batch was not wanted or did not help; names what would take less."""


class StartAgainError(FtlabError, RuntimeError):
    """One of several processes ran out of memory, and has left a note of what fits: all of them, started again, go on.

    The exit code is that of :class:`Preempted`.
    """

    exit_code = 75


class Interrupted(FtlabError):
    """The user stopped the run (Ctrl-C); what there is has been saved."""

    exit_code = 130


class Preempted(Interrupted):
    """A scheduler stopped the run (SIGTERM, SIGUSR1, SIGUSR2); what there is has been saved, and starting it again goes
    on.

    The exit code is EX_TEMPFAIL of sysexits.h: what launchers take for "try again".
    """

    exit_code = 75


def of_system(error: FtlabError | OSError) -> FtlabError:
    """What to tell of an error; :raises OSError: it is one of the system that no word of the user's caused."""
    if isinstance(error, FtlabError):
        return error
    if error.errno != errno.ENAMETOOLONG:
        raise error
    return NotReadyError(f"{error.filename}: the name is longer than a file system takes.")


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line: its first that is not blank, with the next where that only
    announces it; the name of its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, KeyError):  # all that it says is the word that was looked up
        return f"{lines[0]} is not known"
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def nearest(word: str, known: Iterable[str], limit: int = 2) -> list[str]:
    """At most ``limit`` of the ``known`` words that look like ``word``, best first, in whatever case it is written."""
    by_lower = {name.lower(): name for name in sorted(set(known), reverse=True)}
    exact = by_lower.get(word.lower())
    if exact is not None:
        return [exact]
    near = difflib.get_close_matches(word.lower(), sorted(by_lower), n=limit, cutoff=0.6)
    begun = [name for name in sorted(by_lower) if len(word) > 1 and name.startswith(word.lower())]
    return [by_lower[name] for name in near or begun[:limit]]
