"""The way to replicas by Serve's handle, where there is no cluster."""

import socket
import subprocess
import sys

import pytest


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_address_where_nobody_listens_is_told_at_once(closed_port: int) -> None:
    ask = (
        "from vectoll.adapters.engines.ray.by_handle import NotServed, connect\n"
        "try:\n"
        f"    connect('127.0.0.1:{closed_port}')\n"
        "except NotServed as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip().endswith("its Ray cluster cannot be reached")
    assert "cluster_unreachable" not in done.stderr, "a command says it in words of its own"
