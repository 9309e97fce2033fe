"""A way to a database that can be cut at will."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class CuttableProxy:
    """Forwards TCP from ``port`` to the database; ``cut`` closes everything, ``mute`` lets nothing come back."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_mute = False
        self.port = 0
        self.has_swallowed = asyncio.Event()

    async def open(self) -> None:
        """Listen, on the same port as before."""
        self._is_mute = False
        self.has_swallowed.clear()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def mute(self) -> None:
        """From now on the database hears everything and its answers get lost."""
        self._is_mute = True

    def say(self, words: bytes) -> None:
        """What every client hears now, as if the database had said it."""
        for client in self._clients:
            client.write(words)

    async def cut(self) -> None:
        """Close every connection, and refuse new ones until ``open``."""
        if self._server is not None:
            self._server.close()
        await self.reset()

    async def reset(self) -> None:
        """Close every connection; new ones work."""
        self._is_mute = False
        for writer in self._writers:
            writer.close()
        self._writers.clear()
        self._clients.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()  # the database itself is away
            return
        self._writers |= {writer, back_writer}
        self._clients.add(writer)
        for source, sink, is_back in ((reader, back_writer, False), (back_reader, writer, True)):
            task = asyncio.create_task(self._forward(source, sink, is_back))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_back: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                if is_back and self._is_mute:
                    self.has_swallowed.set()
                    continue
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def open_proxy(target_port: int) -> AsyncIterator[CuttableProxy]:
    """One that forwards, cut afterwards."""
    proxy = CuttableProxy(target_port)
    await proxy.open()
    yield proxy
    await proxy.cut()
