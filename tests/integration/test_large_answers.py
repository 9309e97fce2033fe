"""The largest answers: how much of them a server holds, for clients that read fast, slowly, or no more."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from tests.fakes import FakeServer, limited
from tests.live import MODEL, Vectoll
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

TEXTS = [f"number {n}" for n in range(2048)]
SOCKET_BUFFER = 65_536
STALLED_S = 0.5


class Watched:
    """A fake server that counts what it hands to the socket."""

    def __init__(self) -> None:
        self.fake = FakeServer(settings=limited(tokens_per_minute=0))
        self.handed = 0
        self.sends = asyncio.Event()
        self.is_over = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            self.handed += len(message.get("body", b""))
            self.sends.set()
            await send(message)

        await self.fake.app(scope, receive, counting)
        self.is_over.set()

    async def until_stalled(self) -> None:
        """Until nothing has been handed over for ``STALLED_S``."""
        while True:
            self.sends.clear()
            try:
                async with asyncio.timeout(STALLED_S):
                    await self.sends.wait()
            except TimeoutError:
                return


@asynccontextmanager
async def asked(watched: Watched) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection over which 2048 vectors have been asked for, with small buffers on both of its sides."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    config = uvicorn.Config(watched, log_config=None, access_log=False, lifespan="off")
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: HttpToolsProtocol(config=config, server_state=ServerState(), app_state={}), sock=listener
    )
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    client.connect(listener.getsockname())
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client, limit=SOCKET_BUFFER)
    body = json.dumps({"model": "fake-model", "input": TEXTS}).encode()
    key = await watched.fake.open()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await server.wait_closed()


async def test_client_that_reads_slowly_does_not_make_the_server_hold_it_all() -> None:
    watched = Watched()
    async with asyncio.timeout(30), asked(watched) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        await watched.until_stalled()
        held = watched.handed
        chunks = []
        while size := int(await reader.readline(), 16):
            chunks.append((await reader.readexactly(size + 2))[:-2])
        await watched.is_over.wait()
    answer = b"".join(chunks)
    assert watched.handed == len(answer) > 9_000_000
    assert held < 1_000_000
    assert [item["index"] for item in json.loads(answer)["data"]] == list(range(2048))


async def test_client_that_leaves_midway_stops_the_work() -> None:
    watched = Watched()
    async with asyncio.timeout(30), asked(watched) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await watched.until_stalled()
        writer.transport.abort()
        await watched.is_over.wait()
    assert watched.handed < 1_000_000
    assert not watched.fake.services.admission._in_flight
    assert b'status="499"' in watched.fake.services.metrics.render()


def test_memory_grows_by_less_than_the_answer(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, limits__tokens_per_minute=0)
    growth: dict[str, list[float]] = {}
    with vectoll.serve() as server, server.client(vectoll.create_key()) as client:
        pid = server.process.pid
        for coding in ("gzip", "gzip", "gzip", "identity", "identity"):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the high-water mark starts from here
            before, size = _resident_bytes(pid, "VmRSS"), 0
            asking = {"model": MODEL, "input": TEXTS}
            with client.stream(
                "POST", "/v1/embeddings", json=asking, headers={"accept-encoding": coding}
            ) as answer:
                assert answer.status_code == 200
                size = sum(map(len, answer.iter_raw()))
            growth.setdefault(coding, []).append((_resident_bytes(pid, "VmHWM") - before) / size)
    warm = [growth["gzip"][1:], growth["identity"]]  # the engine keeps what its first large batches took
    assert [max(ratios) < 1.5 for ratios in warm] == [True, True], growth


def _resident_bytes(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
