"""What a process of several ended with, told to the one that started it."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ftlab.errors import FtlabError, OtherRankError, StartAgainError, first_line


@dataclass(frozen=True)
class RankFailure:
    """:param seconds: when, since the epoch. :param message: for the user. :param is_ours: whether it says all there is
    to say; else ``trace`` does. :param exit_code: what the process ends with. :param follows: whether it fails because
    another has. :param signal: that has ended it. :param again: whether all processes are to start again.
    """

    rank: int
    seconds: float
    message: str
    is_ours: bool
    trace: str
    exit_code: int
    follows: bool
    signal: int = 0
    again: bool = False


def record_failure(folder: Path, rank: int, error: BaseException) -> None:
    """:param folder: where the launcher looks."""
    is_ours = isinstance(error, FtlabError)
    failure = RankFailure(
        rank, time.time(), str(error) if is_ours else f"{type(error).__name__}: {error}", is_ours,
        "".join(traceback.format_exception(error)), error.exit_code if isinstance(error, FtlabError) else 1,
        misses_another(error), again=isinstance(error, StartAgainError),
    )  # fmt: skip
    whole = folder / f"{rank}.json"
    part = whole.with_suffix(".part")
    part.write_text(json.dumps(vars(failure)), encoding="utf-8")
    part.replace(whole)


def read_failure(text: str) -> RankFailure:
    return RankFailure(**json.loads(text))


def recorded_failures(folder: Path) -> list[RankFailure]:
    return [read_failure(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]


def failure_of_first(failures: Iterable[RankFailure]) -> RankFailure | None:
    """The earliest of those that have a cause of their own, or, without any, of the others."""
    return min(failures, key=lambda failure: (failure.follows, failure.seconds), default=None)


# What torch's process groups and stores say of a process that is gone.
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "TCPStore", "Socket")


def misses_another(error: BaseException) -> bool:
    """Whether what went wrong is that another process failed, or is no longer there."""
    if isinstance(error, FtlabError):
        return isinstance(error, OtherRankError)
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _GONE)


def describe_missing(error: BaseException) -> str:
    """What a process says that goes on no longer because of another, of which it knows no more."""
    return (
        f"another process of this run has ended, and tells why itself, or whoever started it does ({first_line(error)})"
    )
