"""The server's own clock."""

import asyncio
import socket

import pytest
import uvloop
from tests.fakes import FakeServer

from vectoll import connection, serving
from vectoll.settings import Settings


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_spare_the_collector", lambda: None)
    monkeypatch.setattr(connection, "LINGER_S", 1)
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 1)

    async def main() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = serving._Server(Settings(), FakeServer().services, listener, None)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            async with asyncio.timeout(10):
                received = await reader.read()
            writer.close()
            server.should_exit = True
            await running
            return received

    assert uvloop.run(main()) == b""
