"""Embedding on a server."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

import aiohttp
import msgspec

from vectoll.domain.embedding import Vector
from vectoll.domain.errors import ConfigurationError, VectollError
from vectoll.domain.urls import is_http_url

ATTEMPTS = 6
RETRIED = {429, 503}
MAX_RETRY_AFTER_S = 60.0
TIMEOUT_S = 300.0


class _Item(msgspec.Struct):
    index: int
    embedding: str


class _Answer(msgspec.Struct):
    data: list[_Item]


class _OpenAIError(msgspec.Struct):
    message: str


class _Error(msgspec.Struct):
    """An error of either base path: the spec's text, or OpenAI's object."""

    error: str | _OpenAIError


class RemoteEmbedder:
    """One server, through its own API."""

    def __init__(self, session: aiohttp.ClientSession, url: str, model: str, dimensions: int | None) -> None:
        self._session = session
        self._url = url
        self._options: dict[str, object] = {"model": model, "encoding_format": "base64"}
        if dimensions is not None:
            self._options["dimensions"] = dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """One vector per text, in order. Waits as long as a busy server says; raises VectollError."""
        body = msgspec.json.encode({**self._options, "input": texts})
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._session.post(self._url, data=body) as response:
                    content = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise VectollError(f"cannot reach {self._url}: {_explain(error)}") from None
            if response.status not in RETRIED or attempt == ATTEMPTS:
                break
            await asyncio.sleep(_retry_after_s(response, attempt))
        if response.status != 200:
            raise _refusal(response.status, content)
        return _vectors(content, len(texts))


def _explain(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


def _retry_after_s(response: aiohttp.ClientResponse, attempt: int) -> float:
    told = response.headers.get("retry-after", "")
    return min(float(told), MAX_RETRY_AFTER_S) if told.isdigit() else 0.5 * 2**attempt


def _refusal(status: int, content: bytes) -> VectollError:
    try:
        error = msgspec.json.decode(content, type=_Error).error
        message = error if isinstance(error, str) else error.message
    except msgspec.MsgspecError:
        message = "an answer that is not one of vectoll's"
    return VectollError(f"the server answered {status}: {message}")


def _vectors(content: bytes, expected: int) -> Sequence[Vector]:
    """Raises VectollError unless there is exactly one vector for each text."""
    try:
        items = msgspec.json.decode(content, type=_Answer).data
        by_index = {item.index: base64.b64decode(item.embedding, validate=True) for item in items}
        if len(items) == expected:
            return [cast(Vector, memoryview(by_index[i]).cast("f")) for i in range(expected)]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError):
        pass
    raise VectollError("the server's answer does not hold one vector for each text")


@asynccontextmanager
async def open_remote(
    url: str, api_key: str | None, model: str, dimensions: int | None
) -> AsyncIterator[RemoteEmbedder]:
    """``url`` is a server (its /api/v1 is used) or a base URL. Raises ConfigurationError for anything else."""
    if not is_http_url(url):
        raise ConfigurationError("--url must start with http:// or https:// and name a host")
    base = url.rstrip("/") + ("" if urlsplit(url).path.strip("/") else "/api/v1")
    headers = {"content-type": "application/json"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield RemoteEmbedder(session, f"{base}/embeddings", model, dimensions)
