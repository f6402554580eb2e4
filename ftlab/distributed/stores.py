"""Torch's stores of keys and values, over the network: where one is opened, and what is told where it cannot be."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ftlab.distributed.world import Nodes
from ftlab.errors import NotReadyError

MEETING = 900.0  # seconds in which all must have come
ANSWER = timedelta(seconds=60)  # that an operation of a store may take
_REMEDY = "MASTER_PORT of the environment (or --master-port) names another port, MASTER_ADDR another address."


def open_store(nodes: Nodes, say: Callable[[str], Any]) -> Any:
    """:raises NotReadyError: the port is in use, or nobody listens there."""
    import torch.distributed as dist

    if nodes.rank == 0:
        try:
            return dist.TCPStore(nodes.address, nodes.port, is_master=True, wait_for_workers=False, timeout=ANSWER)
        except RuntimeError as error:
            raise NotReadyError(describe_port(nodes.address, nodes.port, error)) from None
    _wait_for_port(nodes, say)
    try:
        return dist.TCPStore(nodes.address, nodes.port, is_master=False, timeout=ANSWER)
    except RuntimeError:
        raise NotReadyError(
            f"What listens at {nodes.address}:{nodes.port} is no node 0 of this run. Give the same address and port "
            f"on every machine. {_REMEDY}"
        ) from None


def describe_port(address: str, port: int | str, error: Exception) -> str:
    """What a store says that cannot listen."""
    if "EADDRINUSE" in str(error):
        return f"Port {port} of {address} is in use by another process. {_REMEDY}"
    return f"Nothing can listen at {address}:{port}: {str(error).splitlines()[0]}. {_REMEDY}"


def _wait_for_port(nodes: Nodes, say: Callable[[str], Any]) -> None:
    """Torch's store would wait too, and hear no Ctrl-C meanwhile. :raises NotReadyError: nobody listens."""
    begun, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((nodes.address, nodes.port), timeout=5).close()
            return
        except OSError as error:
            waited = time.monotonic() - begun
            if waited > MEETING or isinstance(error, socket.gaierror):
                raise NotReadyError(
                    f"Node {nodes.rank} of {nodes.count} does not reach node 0 at {nodes.address}:{nodes.port}: "
                    f"{error.strerror or error}. {_REMEDY}"
                ) from None
        if waited > 2 and not told:
            say(f"waiting for node 0 of {nodes.count} at {nodes.address}:{nodes.port}")
            told = True
        time.sleep(1)
