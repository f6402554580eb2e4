"""One start of a run to which something happens: what ``kill.py`` starts, in a process of its own.

    python benchmarks/kill_start.py WHEN:NAME:NTH:WHAT FOLDER OVERRIDES...

The process looks out for the moment itself, every half millisecond, and does at once what is to be done. Beside
the run it writes ``steps``, a byte for each optimizer step, and ``seconds``, how long ftlab was at work. In ``steps`` a
start is a ``|``, and a step during which a checkpoint was written a ``,``, any other a ``.``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

EVERY = 0.0005  # seconds
CHECKPOINT = "checkpoint"  # the thread that writes one


def main() -> None:
    event, folder = sys.argv[1].split(":"), Path(sys.argv[2])
    _count_steps(folder / "steps")
    begun = time.monotonic()
    if event != ["none"]:
        _look_out(folder / "disk", *event)
    sys.argv = ["ftlab", *sys.argv[3:], f"run.dir={folder / 'disk' / 'run'}"]
    from ftlab.main import main as ftlab

    try:
        ftlab()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)  # or the last one would end the interpreter's own end
        (folder / "seconds").write_text(f"{time.monotonic() - begun:.2f}")


def _count_steps(file: Path) -> None:
    """Of every start: a killed one has written its steps."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def write(byte: bytes) -> None:
        with file.open("ab") as counter:
            counter.write(byte)

    def count(*_: Any) -> None:
        write(b"," if any(thread.name == CHECKPOINT for thread in threading.enumerate()) else b".")

    write(b"|")
    register_optimizer_step_post_hook(count)


def _look_out(disk: Path, when: str, name: str, nth: str, what: str) -> None:
    times, before, begun, seen = 0, False, time.time(), set[Path]()

    def look(is_now: bool) -> bool:
        """Whether it was the moment, and what was to be done is done."""
        nonlocal times, before
        times, before = times + (is_now and not before), is_now
        if times < int(nth):
            return False
        if what == "fill":
            _fill(disk)
        else:
            os.kill(os.getpid(), signal.Signals[what])
        return True

    if when == "function":
        _at_intervals(lambda frame: look(any(_is_in(one, name) for one in (frame, *_frames_of_checkpoint()))))
        return
    is_now: dict[str, Callable[[], bool]] = {
        "seconds": lambda: time.time() - begun > float(name),
        "file": lambda: any(_is_new(path, begun) for path in disk.glob(name)),
        "gone": lambda: _is_one_gone(disk, name, seen),
    }

    def watch() -> None:
        while True:
            with suppress(FileNotFoundError):  # a folder went while it was read
                if look(is_now[when]()):
                    return
            time.sleep(EVERY)

    sys.setswitchinterval(EVERY / 5)
    threading.Thread(target=watch, daemon=True).start()


def _at_intervals(look: Callable[[FrameType | None], bool]) -> None:
    """By a timer of the main thread, whose frames are only there for itself to be read."""

    def handle(_: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not look(frame):
            signal.setitimer(signal.ITIMER_REAL, EVERY)

    signal.signal(signal.SIGALRM, handle)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, EVERY)


def _frames_of_checkpoint() -> list[FrameType]:
    numbers = [thread.ident for thread in threading.enumerate() if thread.name == CHECKPOINT]
    frames = sys._current_frames() if numbers else {}
    return [frames[number] for number in numbers if number in frames]


def _is_in(frame: FrameType | None, function: str) -> bool:
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def _is_new(path: Path, since: float) -> bool:
    """Written by this start of the run."""
    try:
        return path.stat().st_mtime > since
    except FileNotFoundError:
        return False


def _is_one_gone(disk: Path, pattern: str, seen: set[Path]) -> bool:
    seen |= (found := set(disk.glob(pattern)))
    return len(found) < len(seen)


def _fill(disk: Path) -> None:
    """Take all the room that is left, as another program would."""
    assert disk.is_mount(), "only a disk that was made for this"
    with (disk / f"filled-{os.getpid()}").open("wb") as file:
        end, size = 0, 1 << 30
        while size >= 1 << 12:
            try:
                os.posix_fallocate(file.fileno(), end, size)
                end += size
            except OSError:
                size //= 2


if __name__ == "__main__":
    main()
