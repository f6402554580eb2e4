"""``ftlab chat`` in a terminal, and through a pipe."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runs import train_run
from tests.walkthrough import Said

GIVEN = (
    "model=tiny_instruct", "data.max_samples=32", "train.max_steps=2", "tracker=none", "eval.golden_rows=0",
    "eval.samples=0", "data.split.validation=none",
)  # fmt: skip
ASKED = "Give the capital city of Norway."
ENDLESS = ("max_new_tokens=2000", "temperature=30")  # nearly every token is one of the vocabulary's, and hardly the end


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train_run(tmp_path_factory.mktemp("terminal") / "run", *GIVEN).path


class Window:
    """A terminal of 60 columns with Python in it."""

    def __init__(self, folder: Path, env: dict[str, str], *command: str):
        self._outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env={**env, "TERM": "xterm-256color"},
            stdin=inner, stdout=inner, stderr=inner, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(inner)
        self.raw, self._read_to = b"", 0

    def type(self, text: str) -> None:
        os.write(self._outer, text.encode())

    def until(self, is_there: Callable[[str], bool], seconds: float = 60) -> str:
        """What the window says, from where it was read last, until that is enough."""
        begin, deadline = self._read_to, time.monotonic() + seconds
        while not is_there(new := Said(0, self.raw[begin:].decode("utf-8", "replace")).text):
            assert time.monotonic() < deadline and (self._read(0.2) or self.process.poll() is None), new
        self._read_to = len(self.raw)
        return new

    def answered(self, seconds: float = 60) -> str:
        """What it says until it asks again."""
        return self.until(lambda text: text.endswith(">>>"), seconds)

    def end(self) -> int:
        while self._read(60):
            pass
        return self.process.wait(60)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._outer)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._outer], [], [], seconds)[0]:
            return False
        try:
            new = os.read(self._outer, 65536)
        except OSError:  # nobody is left who could write
            return False
        self.raw += new
        return bool(new)


@pytest.fixture
def window(trained, env, tmp_path) -> Iterator[Window]:
    env["FTLAB_CACHE"] = str(tmp_path / "cache")
    found = Window(tmp_path, env, "-m", "ftlab", "chat", str(trained), *ENDLESS)
    yield found
    found.close()


def test_a_chat_in_a_terminal(window, tmp_path):
    """One process for all of it: starting takes most of the time."""
    window.answered(seconds=300)
    # An answer streams, Ctrl-C stops it, and the chat goes on.
    window.type(f"{ASKED}\n")
    window.until(lambda text: len(text) > len(ASKED) + 100)
    window.type("\x03")
    stopped = window.answered()
    assert re.search(r"\d+ tokens, first after [\d.]+ s, [\d.,]+ tokens/s, stopped", stopped), stopped
    # Ctrl-C with nothing to stop only clears the line.
    window.type("half a question")
    window.until(lambda text: text.endswith("half a question"))
    window.type("\x03")
    assert "(Ctrl-D or /quit leaves)" in window.answered()
    window.type("/set temperature 0\n")
    assert "temperature = 0.0" in window.answered()
    window.type('"""Give the capital city.\n')
    window.until(lambda text: text.endswith("..."))
    window.type('Country: Norway"""\n')
    assert re.search(r"\d+ tokens?, first after", window.answered())
    window.type("/history\n")
    history = window.answered()
    assert ">>> Give the capital city.\nCountry: Norway" in history and ASKED in history
    window.type("/stat\t\n")  # Tab completes
    assert "of 2,048 tokens used" in " ".join(window.answered().split())
    window.type("\x1b[A\x1b[A\n")  # the line before the last, from the history
    assert "Country: Norway" in window.answered()
    window.type("\x04")
    assert window.end() == 0
    assert "Traceback" not in window.raw.decode("utf-8", "replace")
    kept = (tmp_path / "cache" / "chat_history").read_text()
    assert ASKED in kept and "/history" in kept
    assert (tmp_path / "cache" / "chat_history").stat().st_mode & 0o077 == 0


# As where it comes between a key and the waiting for the next: the waiting is not interrupted.
UNHEARD = """
import signal, threading
from ftlab.use.chat.reader import TerminalReader

threading.Timer(0.3, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
try:
    TerminalReader(None, lambda line, word: []).read()
except KeyboardInterrupt:
    print("heard")
"""


def test_ctrl_c_that_does_not_interrupt_the_waiting_for_a_key_is_heard(env, tmp_path):
    window = Window(tmp_path, env, "-c", UNHEARD)
    try:
        window.until(lambda text: text.endswith("heard"))
        assert window.end() == 0
    finally:
        window.close()


def test_lines_of_a_pipe_are_answered_one_after_the_other(trained, ftlab_here, monkeypatch):
    lines = f"{ASKED}\n/hlep\n{ASKED}\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    done = ftlab_here("chat", str(trained), "max_new_tokens=8")
    first, second = done.stdout.splitlines()
    assert first == second and done.returncode == 1
    assert "/hlep: no such command. Did you mean /help?" in done.stderr and done.stderr.count("tokens/s") <= 2
    assert ">>>" not in done.stdout and "\x1b" not in done.stdout + done.stderr


@pytest.mark.kill
def test_ctrl_c_ends_a_pipe(trained, env, tmp_path):
    command = [sys.executable, "-m", "ftlab", "chat", str(trained), *ENDLESS]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{ASKED}\n{ASKED}\n")
    process.stdin.flush()
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and err.rstrip().endswith("Stopped.")
