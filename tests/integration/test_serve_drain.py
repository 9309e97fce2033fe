"""SIGTERM: nothing new comes in, what is in flight is finished and paid for, and the process ends in time."""

import asyncio
import signal
import time
from pathlib import Path

import httpx
import pytest
from tests.live import MODEL, Server, Vectoll

TEXT = "the quick brown fox jumps over the lazy dog " * 20  # 182 tokens


def bulk(texts: int) -> dict[str, object]:
    return {"model": MODEL, "input": [TEXT] * texts, "encoding_format": "base64"}


async def begin(server: Server, client: httpx.AsyncClient, texts: int) -> "asyncio.Task[httpx.Response]":
    """A bulk request that the engine is working on."""
    task = asyncio.create_task(client.post("/api/v1/embeddings", json=bulk(texts)))
    await server.until_queued(lambda waiting: waiting > 0)
    return task


async def exit_code(server: Server, within_s: float) -> int:
    started = time.monotonic()
    code = await asyncio.to_thread(server.process.wait, 90)
    assert time.monotonic() - started < within_s
    return code


async def test_request_in_flight_is_finished_and_charged(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, limits__tokens_per_minute=0)
    with vectoll.serve() as server:
        key = vectoll.create_key()
        async with server.async_client(key) as client:
            running = await begin(server, client, 300)
            server.terminate()
            ready = await until_draining(server)
            refused = await client.post("/api/v1/embeddings", json={"model": MODEL, "input": "late"})
            answer = await running
        code = await exit_code(server, within_s=10)
    assert ready == {"status": "draining"}
    assert refused.status_code == 503
    assert refused.json()["code"] == "SHUTTING_DOWN"
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 300
    assert code == 0
    [row] = vectoll.json("usage")
    assert (row["requests"], row["tokens"]) == (1, answer.json()["usage"]["prompt_tokens"])
    vectoll.verify()


async def until_draining(server: Server) -> object:
    """What /ready says when it stops saying that the server is ready."""
    async with asyncio.timeout(10), httpx.AsyncClient(base_url=server.url) as client:
        while (answer := await client.get("/ready")).status_code == 200:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.01)
        assert answer.status_code == 503
        return answer.json()


async def test_request_that_outlives_the_drain_is_cut_off_and_not_charged(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, drain_timeout_s=1, limits__tokens_per_minute=0)
    with vectoll.serve() as server:
        key = vectoll.create_key()
        async with server.async_client(key) as client:
            running = await begin(server, client, 2048)
            server.terminate()
            code = await exit_code(server, within_s=15)
            outcome = await asyncio.gather(running, return_exceptions=True)
    assert code == 0
    assert_failed(outcome[0])
    assert vectoll.json("usage") == []
    vectoll.verify()


def assert_failed(outcome: httpx.Response | BaseException) -> None:
    if isinstance(outcome, httpx.Response):
        assert outcome.status_code >= 500
    else:
        assert isinstance(outcome, httpx.TransportError)


async def test_second_signal_ends_the_drain(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, drain_timeout_s=600, limits__tokens_per_minute=0)
    with vectoll.serve() as server:
        key = vectoll.create_key()
        async with server.async_client(key) as client:
            running = await begin(server, client, 2048)
            server.process.send_signal(signal.SIGINT)
            await until_draining(server)
            server.process.send_signal(signal.SIGINT)
            assert await exit_code(server, within_s=15) == 0
            assert_failed((await asyncio.gather(running, return_exceptions=True))[0])
    vectoll.verify()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_idle_server_ends_at_once(tmp_path: Path, sent: signal.Signals) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve() as server, server.client() as client:
        assert client.get("/health").status_code == 200  # and the connection stays open
        server.process.send_signal(sent)
        assert server.process.wait(10) == 0
    assert '"event":"stopped"' in server.log.read_text()
