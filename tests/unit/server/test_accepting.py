"""Connections that come all at once, on the loop that serves them."""

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import ClassVar

import pytest
import uvloop

from vectoll.server.accepting import Acceptor

CLIENTS = 200


class Guest(asyncio.Protocol):
    """Remembers every connection that was made."""

    made: ClassVar[list[asyncio.BaseTransport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)


@pytest.fixture(autouse=True)
def _nobody() -> None:
    Guest.made = []


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listener:
        yield listener


@contextmanager
def clients(listener: socket.socket, count: int) -> Iterator[None]:
    """So many who have connected, as far as they can tell."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(closing(socket.create_connection(listener.getsockname(), timeout=5)))
        yield


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_all_who_wait_are_taken_at_once(listener: socket.socket) -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Guest, sock=listener, backlog=CLIENTS)
        with clients(listener, CLIENTS), closing(Acceptor(listener, Guest)), closing(server):
            await turns(10)  # the loop's own server takes one in each
            assert len(Guest.made) == CLIENTS
            for transport in Guest.made:
                connection = transport.get_extra_info("socket")
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                transport.close()

    uvloop.run(main())


def test_where_no_more_files_may_be_open_they_wait(listener: socket.socket) -> None:
    async def main() -> None:
        with clients(listener, 3), closing(Acceptor(listener, Guest)):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                await turns(10)
                assert Guest.made == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await turns(10)
            assert len(Guest.made) == 3

    uvloop.run(main())


def test_who_comes_after_the_end_is_left_to_others(listener: socket.socket) -> None:
    async def main() -> None:
        Acceptor(listener, Guest).close()
        with clients(listener, 1):
            await turns(10)
            assert Guest.made == []
            connection, _ = listener.accept()
            connection.close()

    uvloop.run(main())
