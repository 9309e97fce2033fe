"""Taking new connections."""

import asyncio
import socket
from collections.abc import Callable

import structlog

AT_ONCE = 256
"""Connections that are taken in one turn of the loop: fewer than the files that are kept free of them."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.server.serving")


class Acceptor:
    """Takes every connection that waits at a listening socket, in each turn of the running loop.

    The loop's own server, which must serve the same socket, takes one in a turn (libuv, since its 1.45). A turn takes
    many milliseconds when many requests are in flight, so of 1,000 clients who came at once the last would wait
    for seconds while the first are served again and again. When no more files may be open, nothing is taken here, and
    the loop's server turns clients away.
    """

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Take no more. The listening socket itself stays open."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return  # nobody waits, or a client that has left, or no more files: the loop's server sees to it
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError as error:
            connection.close()
            log.info("connection_lost", reason=error.strerror)
