"""Ends under load: kill -9 twenty times, and SIGTERM."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.live import MODEL, Key, Server, Vectoll

EMBEDDINGS = "/api/v1/embeddings"
KILLS = 20
CALLERS = 16
NO_LIMITS: dict[str, Any] = {"limits__requests_per_minute": 0, "limits__tokens_per_minute": 0}


def request(request_id: str) -> dict[str, Any]:
    """A request of a size of its own, under an Idempotency-Key: the same whenever it is made."""
    texts = [f"text {n} of {request_id}" for n in range(1 + sum(request_id.encode()) % 16)]
    headers = {"x-request-id": request_id, "idempotency-key": request_id}
    return {"json": {"model": MODEL, "input": texts}, "headers": headers}


@dataclass
class Load:
    """Callers who keep asking until their server is gone, and what each request came to."""

    server: Server
    key: Key
    name: str
    kill_after_answers: int
    answered: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)
    is_enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Kill the server once so many answers have been read in full, while the other callers wait for theirs."""
        async with self.server.async_client(self.key) as client:
            callers = [asyncio.create_task(self._call(client, n)) for n in range(CALLERS)]
            await self.is_enough.wait()
            self.server.process.kill()
            await asyncio.gather(*callers)
        self.server.process.wait()

    async def _call(self, client: httpx.AsyncClient, caller: int) -> None:
        for i in range(1_000_000):
            request_id = f"{self.name}-{caller}-{i}"
            self.in_flight.add(request_id)
            try:
                answer = await client.post(EMBEDDINGS, **request(request_id))
            except httpx.TransportError:
                return
            assert answer.status_code == 200, answer.text
            self.in_flight.remove(request_id)
            self.answered.add(request_id)
            if len(self.answered) >= self.kill_after_answers:
                self.is_enough.set()


@pytest.mark.timeout(600)
async def test_killed_twenty_times_under_load(tmp_path: Path) -> None:
    """After each kill the ledger is clean, every answer has its one charge, and who got no answer may ask again.

    A charge without an answer is of a request that was in flight: committed, and killed on its way out. Repeated
    after the restart it is answered, and not charged again.
    """
    vectoll = Vectoll(tmp_path, **NO_LIMITS)
    key = vectoll.create_key("1")
    answered: set[str] = set()
    in_flight: set[str] = set()
    for kill in range(KILLS + 1):
        with vectoll.serve() as server:
            charged = Counter(charge.request_id for charge in server.charges(key))
            assert answered <= charged.keys() <= answered | in_flight
            await _repeat(server, key, in_flight)
            answered |= in_flight
            assert Counter(charge.request_id for charge in server.charges(key)) == Counter(answered)
            if kill == KILLS:
                break
            load = Load(server, key, f"kill{kill}", kill_after_answers=5 + 3 * kill)
            await load.run()
        vectoll.verify()
        answered |= load.answered
        in_flight = load.in_flight
        assert in_flight


async def _repeat(server: Server, key: Key, request_ids: set[str]) -> None:
    async with server.async_client(key) as client:
        answers = await asyncio.gather(*(client.post(EMBEDDINGS, **request(name)) for name in request_ids))
    assert {answer.status_code for answer in answers} <= {200}


async def test_sigterm_answers_what_is_in_flight(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, **NO_LIMITS)
    answers, server, key = await _terminate_under_load(vectoll, requests=32, inputs=32)
    assert {answer.status_code for answer in answers} == {200}
    assert server.process.wait(30) == 0
    assert await _charged(vectoll, key) == {answer.headers["x-request-id"] for answer in answers}


async def test_sigterm_refuses_cleanly_what_does_not_fit_the_limit(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, drain_timeout_s=1, queue__max_wait_s=600, **NO_LIMITS)
    answers, server, key = await _terminate_under_load(vectoll, requests=64, inputs=512)
    started = time.monotonic()
    assert server.process.wait(30) == 0
    assert time.monotonic() - started < 5
    assert Counter(answer.status_code for answer in answers).keys() == {200, 503}
    assert all(answer.json()["code"] == "SHUTTING_DOWN" for answer in answers if answer.status_code == 503)
    answered = {answer.headers["x-request-id"] for answer in answers if answer.status_code == 200}
    assert await _charged(vectoll, key) == answered


async def _terminate_under_load(
    vectoll: Vectoll, requests: int, inputs: int
) -> tuple[list[httpx.Response], Server, Key]:
    """SIGTERM once the first of so many requests at once has its answer, while the rest wait for theirs."""
    key = vectoll.create_key()
    body = {"model": MODEL, "input": [f"text number {n}" for n in range(inputs)], "encoding_format": "base64"}
    with vectoll.serve() as server:
        async with server.async_client(key) as client:
            calls = [asyncio.create_task(client.post(EMBEDDINGS, json=body)) for _ in range(requests)]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            server.terminate()
            answers = await asyncio.gather(*calls)
        await asyncio.to_thread(server.process.wait, 30)
    return answers, server, key


async def _charged(vectoll: Vectoll, key: Key) -> set[str]:
    vectoll.verify()
    with vectoll.serve() as server:
        return {charge.request_id for charge in server.charges(key)}
