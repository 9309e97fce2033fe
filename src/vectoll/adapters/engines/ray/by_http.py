"""To replicas over the HTTP proxies of Serve, from outside the cluster."""

import asyncio
import random
from collections.abc import Sequence

import aiohttp

from vectoll.adapters.engines.ray.frames import MEDIA_TYPE
from vectoll.adapters.engines.ray.names import route_prefix
from vectoll.adapters.engines.ray.routes import NOT_DEPLOYED, Full, NotServed, Unreachable
from vectoll.domain.ids import ModelId

CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 1024
LEFT_ALONE_S = 2.0
PROBED_S = CONNECT_TIMEOUT_S
"""How long one question may take to find out whether a broken proxy is back, before another tries."""

_STRANGER = "the cluster does not know this server's secret"
NOT_SERVED = {401: _STRANGER, 403: _STRANGER, 404: NOT_DEPLOYED}


class HttpRoute:
    """Implements ``Route``. Each question goes to a random proxy. One that broke is left alone for a while, then asked
    one question at a time until it answers. So is, for a while, one whose cluster does not serve the model.
    """

    def __init__(self, model: ModelId, urls: Sequence[str], secret: str, max_answer_bytes: int) -> None:
        """``urls`` are the proxies' base URLs, at least one."""
        self._urls = [url.rstrip("/") + route_prefix(model) for url in urls]
        self._headers = {"authorization": f"Bearer {secret}", "content-type": MEDIA_TYPE}
        self._max_answer_bytes = max_answer_bytes
        self._left_until = dict.fromkeys(self._urls, 0.0)
        self._suspects: set[str] = set()
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, question: bytes) -> bytes:
        """See ``Route``. Whatever is not a frame is an answer of the proxy itself."""
        url = self._choose()
        try:
            async with self._open().post(
                url, data=question, headers=self._headers, allow_redirects=False
            ) as response:
                self._suspects.discard(url)
                self._left_until[url] = 0.0
                if response.content_type == MEDIA_TYPE:
                    return await _read(response, self._max_answer_bytes)
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            self._suspects.add(url)
            self._leave_alone(url)
            raise Unreachable(type(error).__name__) from None
        if status in NOT_SERVED:
            self._leave_alone(url)
            raise NotServed(NOT_SERVED[status])
        if status == 503:
            raise Full
        raise Unreachable(f"HTTP {status}")

    def _choose(self) -> str:
        now = asyncio.get_running_loop().time()
        healthy = [url for url in self._urls if self._left_until[url] <= now]
        url = random.choice(healthy or self._urls)  # noqa: S311 - to spread load
        if url in self._suspects:
            self._left_until[url] = now + PROBED_S
        return url

    def _leave_alone(self, url: str) -> None:
        self._left_until[url] = asyncio.get_running_loop().time() + LEFT_ALONE_S

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use: it belongs to the event loop that runs then."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=30.0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session

    async def close(self) -> None:
        """See ``Route``."""
        if self._session is not None:
            await self._session.close()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The whole body. Raises Unreachable beyond ``max_bytes``."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            raise Unreachable("an answer that is too long")
        chunks.append(chunk)
    return b"".join(chunks)
