"""A cluster for the tests of this folder, and the command on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.rundir.submission import Submission, SubmissionFiles
from tests.conftest import ROOT
from tests.slurm.cluster import Cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("submitit", reason="pip install 'ftlab[slurm]'")
    if (reason := why_not()) is not None:
        pytest.skip(f"no Slurm can be started here: {reason}")
    with Cluster() as started:
        yield started


def _listen_to_ctrl_c() -> None:
    """Also where the tests run in a shell's background, which ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Command:
    """``ftlab hydra/launcher=slurm ...`` at work in a folder, waiting for its jobs."""

    def __init__(self, cluster: Cluster, folder: Path, *words: str, terminal: int | None = None):
        """:param terminal: what it reads from and writes to; None: nothing, and a file."""
        self.cluster, self.folder = cluster, folder
        self._begun: set[tuple[str, str]] = set()
        self._log = (folder / f"command-{time.monotonic_ns()}.txt").open("w+")
        paths = [str(ROOT), str(ROOT / "launchers"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **cluster.environment, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ftlab", *words], cwd=folder, env=environment, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            preexec_fn=_listen_to_ctrl_c,
            stdout=self._log if terminal is None else terminal,
        )  # fmt: skip

    @property
    def output(self) -> str:
        return Path(self._log.name).read_text()

    def submission(self, run: str = "run") -> Submission:
        """The job of a run."""
        record = SubmissionFiles(self.folder / run).read()
        assert record is not None
        return record

    def until(self, is_so: Callable[[], bool], seconds: float = 120) -> None:
        """Wait for something that jobs do, while those that were queued again are let in at once: Slurm would let them
        wait for two minutes."""
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, self.output
            self._let_in()
            time.sleep(0.02)

    def end(self, seconds: float = 300) -> int:
        """The exit code."""
        self.until(lambda: self._process.poll() is not None, seconds)
        return self._process.returncode

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def is_waiting(self) -> bool:
        return self._process.poll() is None

    def _let_in(self) -> None:
        """Once for each start: at once it would be refused, for the one before it has only just ended."""
        if time.monotonic_ns() // 50_000_000 % 20:
            return
        waiting = self.cluster.call("squeue", "-h", "-r", "-t", "PENDING", "-O", "JobID:20,Reason:30,RestartCnt:10")
        for job, reason, start in map(str.split, waiting.splitlines()):
            if reason == "BeginTime" and (job, start) not in self._begun:
                self._begun.add((job, start))
                self.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now+5seconds")


@pytest.fixture
def command(cluster, tmp_path) -> Iterator[Callable[..., Command]]:
    """``command("-m", "lora.r=4,8")``: started in the test's folder."""
    started: list[Command] = []

    def start(*words: str, **options: Any) -> Command:
        launcher = () if words[0] == "slurm" else ("hydra/launcher=slurm",)
        started.append(Command(cluster, tmp_path, *launcher, *words, **options))
        return started[-1]

    yield start
    for one in started:
        if one.is_waiting():
            one.interrupt()
            one.end(60)
    cluster.cancel_all()
