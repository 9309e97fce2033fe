"""A provider over a real socket: speaks both protocols as their owners do, and fails in every way on request."""

import asyncio
import base64
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NATIVE_DIMS = 8
KEY = "sk-operator-secret"


@dataclass(frozen=True)
class Fault:
    """What to do instead of a right answer: fields combine."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """None: what a right answer would be."""
    cut_at: int | None = None
    """Close the connection after this many bytes of the body."""
    hang: bool = False
    """Never answer."""
    until: asyncio.Event | None = None
    """Answer once this is set."""
    refuse: bool = False
    """Close the connection before reading the request."""


def error(status: int, code: str, message: str = "no", **headers: str) -> Fault:
    body = json.dumps({"error": {"message": message, "type": code, "param": None, "code": code}}).encode()
    return Fault(status, headers, body)


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class ProviderServer:
    """Answers faults in order, then rightly."""

    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    seen: list[Seen] = field(default_factory=list)
    with_usage: bool = True
    honours_base64: bool = True
    honours_dimensions: bool = True
    shuffles: bool = False
    connections: int = 0
    active: int = 0
    peak_active: int = 0
    gate: asyncio.Event | None = None
    """When set, right answers wait for it."""

    answered: int = 0
    _awaited: list[tuple[Callable[[], bool], "asyncio.Future[None]"]] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once this holds of calls that begin and end here."""
        if not condition():
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._awaited.append((condition, arrived))
            await arrived

    async def active_calls(self, number: int) -> None:
        """Return once this many calls are under way here."""
        await self.until(lambda: self.active >= number)

    def _tell(self) -> None:
        for condition, arrived in self._awaited:
            if not arrived.done() and condition():
                arrived.set_result(None)

    def _enter(self) -> None:
        self.active += 1
        self.peak_active = max(self.peak_active, self.active)
        self._tell()

    @property
    def embed_calls(self) -> list[Seen]:
        return [s for s in self.seen if "countTokens" not in s.path]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. Whether the connection ends with it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fault = self.faults.popleft() if self.faults else self.always
        if fault and fault.refuse:
            return True
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers["content-length"]))
        seen = Seen(head[0].split(" ")[1], headers, json.loads(raw))
        self.seen.append(seen)
        self._enter()
        try:
            if fault and fault.hang:
                await reader.read()
                return True
            if gate := fault.until if fault else self.gate:
                await gate.wait()
        finally:
            self.active -= 1
        right_status, right = self._answer(seen)
        status = fault.status if fault else right_status
        body = fault.body if fault and fault.body is not None else right
        await _write(writer, status, fault.headers if fault else {}, body, fault.cut_at if fault else None)
        self.answered += 1
        self._tell()
        return bool(fault and fault.cut_at is not None)

    def _answer(self, seen: Seen) -> tuple[int, bytes]:
        status, tree = self._gemini(seen) if ":" in seen.path else self._openai(seen)
        return status, json.dumps(tree).encode()

    def _openai(self, seen: Seen) -> tuple[int, Any]:
        if seen.headers.get("authorization") not in (f"Bearer {KEY}", None):
            return 401, {"error": {"message": f"Incorrect API key: {KEY}", "code": "invalid_api_key"}}
        inputs, dims = seen.body["input"], seen.body.get("dimensions", NATIVE_DIMS)
        tokens = sum(count_tokens(text) for text in inputs)
        if len(inputs) > 2048 or tokens > 300_000:
            return 400, {"error": {"message": "too much", "code": "invalid_request_error"}}
        if not self.honours_dimensions:
            dims = NATIVE_DIMS
        is_base64 = self.honours_base64 and seen.body.get("encoding_format") == "base64"
        items = []
        for index, text in enumerate(inputs):
            vector = vector_of(text, dims)
            value = base64.b64encode(vector.tobytes()).decode() if is_base64 else vector.tolist()
            items.append({"object": "embedding", "index": index, "embedding": value})
        if self.shuffles:
            items.reverse()
        usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if self.with_usage else {}
        return 200, {"object": "list", "data": items, "model": seen.body["model"], **usage}

    def _gemini(self, seen: Seen) -> tuple[int, Any]:
        if seen.headers.get("x-goog-api-key") != KEY:
            return 400, {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}
        if seen.path.endswith(":countTokens"):
            texts = [part["text"] for content in seen.body["contents"] for part in content["parts"]]
            return 200, {"totalTokens": sum(map(count_tokens, texts))}
        requests = seen.body["requests"]
        if len(requests) > 100:
            return 400, {"error": {"status": "INVALID_ARGUMENT", "message": "at most 100 requests"}}
        texts = ["".join(part["text"] for part in r["content"]["parts"]) for r in requests]
        values = [vector_of(t, r["outputDimensionality"]) for t, r in zip(texts, requests, strict=True)]
        usage = (
            {"usageMetadata": {"promptTokenCount": sum(map(count_tokens, texts))}} if self.with_usage else {}
        )
        return 200, {"embeddings": [{"values": v.tolist()} for v in values], **usage}


async def _write(
    writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: bytes, cut_at: int | None
) -> None:
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    )
    writer.write(head.encode() + body[:cut_at])
    await writer.drain()


@asynccontextmanager
async def provider_server(**options: Any) -> AsyncIterator[ProviderServer]:
    """A provider on a free port of this machine."""
    provider = ProviderServer(**options)
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, limit=2**26)
    port = server.sockets[0].getsockname()[1]
    provider.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield provider
    finally:
        server.close()


def count_tokens(text: str | list[int]) -> int:
    """This provider's tokens: words, or the ids themselves."""
    return max(1, len(text.split())) if isinstance(text, str) else len(text)


def vector_of(text: str | list[int], dims: int = NATIVE_DIMS) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A unit vector that only this text has; shorter ones are the beginnings of longer ones, normalised."""
    seed = int.from_bytes(hashlib.sha256(repr(text).encode()).digest()[:8])
    whole = np.random.default_rng(seed).standard_normal(NATIVE_DIMS)[:dims]
    return (whole / np.linalg.norm(whole)).astype("<f4")
