"""The server's own clock."""

import asyncio
import errno
import gc
import signal
import socket
import weakref
from contextlib import suppress

import pytest
import uvloop
from tests.fakes import FakeServer

from vectoll.server import connection, serving
from vectoll.settings import Settings


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_spare_the_collector", lambda: None)
    monkeypatch.setattr(connection, "LINGER_S", 1)
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", 1)

    async def main() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = serving._Server(Settings(), FakeServer().services, listener, None, 100)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            async with asyncio.timeout(10):
                received = await reader.read()
            writer.close()
            server.should_exit = True
            await running
            return received

    assert uvloop.run(main()) == b""


def test_output_that_is_full_stops_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_spare_the_collector", lambda: None)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = serving._Server(Settings(), FakeServer().services, listener, None, 100)
            asyncio.get_running_loop().call_later(0, server.handle_exit, signal.SIGTERM, None)
            await server.serve(sockets=[listener])
            return server.started

    monkeypatch.setattr(serving, "print", fail, raising=False)
    assert uvloop.run(main())


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_what_requests_leave_in_cycles_goes_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: None)  # the tests that follow leave garbage, too

    async def main() -> tuple[bool, bool]:
        gone = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = serving._Server(Settings(), FakeServer().services, listener, None, 100)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            _, writer = await asyncio.open_connection(*listener.getsockname())
            weakref.finalize(Cycle(), gone.set)
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await gone.wait()
            by_itself = gc.isenabled()
            writer.close()
            server.should_exit = True
            await running
        return gone.is_set(), by_itself

    try:
        assert uvloop.run(main()) == (True, False)
        assert gc.isenabled(), "no clock ticks any more"
    finally:
        gc.enable()
