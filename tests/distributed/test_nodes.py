"""Several machines, started one by one as where no Slurm is; here two launchers stand for them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from tests.conftest import ROOT
from tests.distributed.test_ranks import (  # noqa: F401
    LONG,
    lines,
    ranks_of,
    same_lines,
    start,
    wait_for,
    weights,
)

NODES = tuple("hardware.nodes=2" if word == "hardware.devices=2" else word for word in LONG)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def launch(start) -> Callable[[], tuple[Popen[str], Popen[str]]]:  # noqa: F811
    """``launch()``: the launchers of both nodes of outputs/a, the second of which comes first."""

    def begin() -> tuple[Popen[str], Popen[str]]:
        where = (f"--master-port={free_port()}", "--master-addr=127.0.0.1")
        nodes = [
            start("outputs/a", f"--node-rank={rank}", *where, module="ftlab.engine.launch", COLUMNS="400")
            for rank in (1, 0)
        ]
        return nodes[1], nodes[0]

    return begin


def prepare(start, *words: str) -> str:  # noqa: F811
    """Make outputs/a; what the command says of it."""
    process = start(*words, COLUMNS="400")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1, out + err
    return err


def end(*processes: Popen[str]) -> list[tuple[int, str]]:
    """Exit code and error output of each."""
    texts = [process.communicate(timeout=200) for process in processes]
    return [(process.returncode, err) for process, (_, err) in zip(processes, texts)]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """The same run by two processes of one machine, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("local")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "launchers")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "ftlab", *LONG]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "outputs/a"


def check_same(run_dir: Path, local: Path) -> None:
    assert weights(run_dir) == weights(local)
    assert same_lines(lines(run_dir), lines(local))


@pytest.mark.distributed
def test_two_nodes_are_two_processes(tmp_path, start, launch, local):  # noqa: F811
    told = prepare(start, *NODES)
    assert "outputs/a is ready. It is planned for 2 machines (hardware.nodes)" in told
    assert "  python -m ftlab.engine.launch outputs/a --node-rank=N --master-addr=HOST\n" in told
    assert end(*launch()) == [(0, ""), (0, "")]
    check_same(tmp_path / "outputs/a", local)


@pytest.mark.distributed
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_is_gone_is_named_by_the_other(tmp_path, start, launch, local, node, how):  # noqa: F811
    """Whether the machine is switched off or only not to be reached; the same two commands go on."""
    prepare(start, *NODES)
    nodes = launch()
    wait_for((tmp_path / "outputs/a/phases/01-sft/checkpoint-5/checkpoint.json").exists, nodes[0])
    gone, other = nodes[node], nodes[1 - node]
    for pid in [gone.pid, *ranks_of(gone.pid)]:
        os.kill(pid, how)
    begun = time.monotonic()
    ((code, err),) = end(other)
    assert (code, time.monotonic() - begun < 30) == (1, True), err
    assert err.startswith(f"Node {node} of 2 (") and "has ended or cannot be reached" in err, err
    assert "Traceback" not in err
    for pid in [gone.pid, *ranks_of(gone.pid)] if how == signal.SIGSTOP else []:
        os.kill(pid, signal.SIGKILL)
    if node == 1 and how == signal.SIGKILL:
        assert "Node 1 of 2" in json.loads((tmp_path / "outputs/a/manifest.json").read_text())["error"]
        assert [code for code, _ in end(*launch())] == [0, 0]
        check_same(tmp_path / "outputs/a", local)


@pytest.mark.distributed
def test_a_process_that_fails_is_named_on_both_nodes(tmp_path, start, launch):  # noqa: F811
    prepare(start, *NODES)
    nodes = launch()
    wait_for((tmp_path / "outputs/a/phases/01-sft/checkpoint-5/checkpoint.json").exists, nodes[0])
    os.kill(ranks_of(nodes[1].pid)[0], signal.SIGKILL)
    for code, err in end(*nodes):
        assert code == 1 and err.startswith("Rank 1 of 2 was ended by SIGKILL; the others were stopped."), err


@pytest.mark.distributed
def test_a_signal_to_one_node_stops_both_after_the_same_step(tmp_path, start, launch, local):  # noqa: F811
    prepare(start, *NODES)
    nodes = launch()
    wait_for((tmp_path / "outputs/a/phases/01-sft/checkpoint-5/checkpoint.json").exists, nodes[0])
    os.kill(nodes[1].pid, signal.SIGUSR2)
    for code, err in end(*nodes):
        assert code == 75 and err.startswith("Interrupted. Continue with"), err
    assert [code for code, _ in end(*launch())] == [0, 0]
    check_same(tmp_path / "outputs/a", local)


@pytest.mark.distributed
def test_what_keeps_nodes_from_meeting_is_told(tmp_path, start):  # noqa: F811
    prepare(start, *NODES)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        first = "--master-addr=127.0.0.1"
        cases = {
            ("--node-rank=0", first, f"--master-port={port}"): f"Port {port} of 127.0.0.1 is in use",
            ("--node-rank=2", first): "--node-rank=2 is not below hardware.nodes=2",
            (): "planned for 2 machines (hardware.nodes), and each has to know which it is and where the first is: "
            "--node-rank=0 to 1 --master-addr=HOST",
            ("--node-rank=1", "--master-addr=no.such.invalid"): "does not reach node 0 at no.such.invalid:29500",
        }
        ends = end(*(start("outputs/a", *words, module="ftlab.engine.launch", COLUMNS="400") for words in cases))
    for (code, err), told in zip(ends, cases.values(), strict=True):
        assert code == 1 and told in err and "Traceback" not in err, err
