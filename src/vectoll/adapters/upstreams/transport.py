"""Bytes to an upstream and bytes back: pooled connections, bounded time, retries, failover."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp

from vectoll import __version__
from vectoll.adapters.upstreams.endpoints import Endpoint, Endpoints
from vectoll.adapters.upstreams.failures import (
    BadAnswer,
    Busy,
    InputRefused,
    NoAnswer,
    NotAsked,
    Refused,
    Silence,
    ToldToWait,
    UpstreamFailure,
)
from vectoll.adapters.upstreams.retries import RetryPolicy, retry_after_s
from vectoll.core.tracing import onward
from vectoll.ports.metrics import Metrics, Reattempt, UpstreamOutcome

T = TypeVar("T")

Classify = Callable[[int, bytes], UpstreamFailure | None]
"""What a status other than 200 means with the first ``MAX_ERROR_BYTES`` of its body; None where the status says all."""

CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 128
MAX_ERROR_BYTES = 65_536
INLINE_PARSE_BYTES = 131_072
"""A larger answer is parsed in a thread: it would hold up every other request for milliseconds."""

MAX_SPARE_RETRIES = 256
"""A retry budget: how many retries may go without an answer, enough for all calls under way at once. Each answer earns
one more, so a provider that is down gets hardly more calls than there are requests."""

_RETRIED = frozenset({408, 409, 424, 425})
"""424 is TEI's for an engine that failed."""
_log = logging.getLogger("vectoll.upstreams")


class Transport:
    """Posts to one provider over all its base URLs. Redirects, cookies and proxies are never followed."""

    def __init__(
        self,
        urls: Sequence[str],
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        retries: RetryPolicy,
        model: str,
        metrics: Metrics,
    ) -> None:
        """``headers`` carry our key; a call gets half of ``timeout_s`` at most, so that there is time for another.

        ``metrics`` are told of every call, as ``model``'s.
        """
        self._headers = {
            **headers,
            "content-type": "application/json",
            "user-agent": f"vectoll/{__version__}",
        }
        self._endpoints = Endpoints(urls, lambda: asyncio.get_running_loop().time())
        self._timeout_s = timeout_s
        self._retries = retries
        self._model = model
        self._metrics = metrics
        self._spare_retries = MAX_SPARE_RETRIES
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def post(
        self,
        path: str,
        body: bytes,
        parse: Callable[[bytes], T],
        classify: Classify,
        max_bytes: int,
        abandoned: asyncio.Event,
        deadline: float,
    ) -> T:
        """Send ``body`` to ``path`` below a base URL until one answers; what ``parse`` makes of the answer.

        Goes on to the next healthy URL at once, and pauses when all were tried. A URL that gave a BadAnswer, which may
        have cost money, or Refused is not asked again. Raises InputRefused at once, else the last UpstreamFailure when
        attempts or time (``deadline``, of the loop) are used up or nobody waits any more (``abandoned``). ``max_bytes``
        bounds the answer.
        """
        tried: set[Endpoint] = set()
        endpoint = self._endpoints.any()
        attempt = 0
        while True:
            attempt += 1
            tried.add(endpoint)
            try:
                async with self._endpoints.turn(endpoint, abandoned):
                    limit_s = self._limit_s(deadline, len(self._endpoints) - len(tried))
                    return await self._attempt(endpoint, path, body, parse, classify, max_bytes, limit_s)
            except NotAsked:
                raise
            except (NoAnswer, BadAnswer, Refused) as failure:
                was_sent = not isinstance(failure, ToldToWait)
                if was_sent:
                    self._note(endpoint, failure, attempt)
                is_last = attempt >= max(self._retries.max_attempts, len(self._endpoints))
                if is_last or self._is_closed or abandoned.is_set():
                    raise
                following = self._endpoints.healthy(tried)
                how = Reattempt.FAILOVER
                if following is None:
                    if not isinstance(failure, NoAnswer) or (was_sent and not self._spare_retries):
                        raise
                    self._spare_retries -= was_sent
                    await self._pause(attempt, failure, deadline, abandoned)
                    tried.clear()
                    following = self._endpoints.any()
                    how = Reattempt.RETRY
                if was_sent:
                    self._metrics.upstream_reattempted(self._model, how)
                endpoint = following

    async def _pause(
        self, attempt: int, failure: NoAnswer, deadline: float, abandoned: asyncio.Event
    ) -> None:
        """Wait before a retry. Raises ``failure`` when there is no time for one, or nobody waits for it."""
        pause_s = self._retries.pause_s(attempt, failure.retry_after_s, random.random)
        if asyncio.get_running_loop().time() + pause_s >= deadline:
            raise failure
        with suppress(TimeoutError):
            await asyncio.wait_for(abandoned.wait(), pause_s)
            raise failure

    def _limit_s(self, deadline: float, untried: int) -> float:
        """The most that one call may take: one that hangs leaves time for another, and for each URL not yet tried."""
        left_s = deadline - asyncio.get_running_loop().time()
        return min(self._timeout_s, left_s if untried else 2 * left_s) / 2

    async def _attempt(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes,
        parse: Callable[[bytes], T],
        classify: Classify,
        max_bytes: int,
        limit_s: float,
    ) -> T:
        """One call. Raises ToldToWait, without one, until the provider wants to be asked, and NotAsked without time."""
        if wait_s := self._endpoints.wait_s(endpoint):
            raise ToldToWait("it has asked to wait", wait_s)
        if limit_s <= 0.0:
            raise NotAsked("no time is left")
        self._endpoints.started(endpoint)
        started, outcome = time.perf_counter(), UpstreamOutcome.ABANDONED
        try:
            data = await self._exchange(endpoint.url + path, body, limit_s, classify, max_bytes)
            answer = parse(data) if len(data) <= INLINE_PARSE_BYTES else await asyncio.to_thread(parse, data)
            outcome = UpstreamOutcome.ANSWERED
        except UpstreamFailure as failure:
            outcome = _outcome(failure)
            if isinstance(failure, InputRefused):
                self._endpoints.answered(endpoint)
            raise
        finally:
            self._endpoints.finished(endpoint)
            seconds = time.perf_counter() - started
            self._metrics.upstream_called(self._model, urlsplit(endpoint.url).netloc, outcome, seconds)
        self._endpoints.answered(endpoint)
        self._spare_retries = min(MAX_SPARE_RETRIES, self._spare_retries + 1)
        return answer

    async def _exchange(
        self, url: str, body: bytes, limit_s: float, classify: Classify, max_bytes: int
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=min(CONNECT_TIMEOUT_S, limit_s))
        try:
            with onward("upstream") as trace_headers:
                # The rest of a trace's context is the caller's own words, and no business of a provider's.
                onwards = {name: v for name, v in trace_headers.items() if name == "traceparent"}
                headers = {**self._headers, **onwards}
                async with self._open().post(
                    url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    if response.status == 200:
                        data = await _read(response, max_bytes + 1)
                        if len(data) > max_bytes:
                            raise BadAnswer(f"an answer of more than {max_bytes} bytes")
                        return data
                    error = await _read(response, MAX_ERROR_BYTES)
                    raise classify(response.status, error) or _failure(
                        response.status, response.headers, error
                    )
        except TimeoutError:
            raise Silence("timed out") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Silence(type(error).__name__) from None

    def _note(self, endpoint: Endpoint, failure: UpstreamFailure, attempt: int) -> None:
        details = {"host": urlsplit(endpoint.url).netloc, "attempt": attempt, "reason": str(failure)}
        if isinstance(failure, Busy):
            seconds = self._endpoints.asked_to_wait(endpoint, failure.retry_after_s)
            not_asked_for_s = round(seconds, 1) if failure.retry_after_s else None
            _log.warning("upstream_busy", extra={**details, "not_asked_for_s": not_asked_for_s})
            return
        is_ejected = self._endpoints.failed(endpoint, is_silent=isinstance(failure, Silence))
        _log.warning("upstream_failed", extra={**details, "is_ejected": is_ejected})

    def _open(self) -> aiohttp.ClientSession:
        """The session, made on first use: it belongs to the event loop that runs then."""
        if self._is_closed:
            raise NoAnswer("this server is shutting down")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Cut every connection. Calls in flight fail, later ones too."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()


def _outcome(failure: UpstreamFailure) -> UpstreamOutcome:
    """The kind of a failure."""
    match failure:
        case Busy():
            return UpstreamOutcome.BUSY
        case NoAnswer():
            return UpstreamOutcome.NO_ANSWER
        case BadAnswer():
            return UpstreamOutcome.BAD_ANSWER
        case InputRefused():
            return UpstreamOutcome.INPUT_REFUSED
    return UpstreamOutcome.REFUSED


async def _read(response: aiohttp.ClientResponse, at_most: int) -> bytes:
    """The body, or its first ``at_most`` bytes: what is left unread closes the connection."""
    chunks: list[bytes] = []
    room = at_most
    async for chunk in response.content.iter_any():
        chunks.append(chunk[:room])
        room -= len(chunk)
        if room <= 0:
            break
    return b"".join(chunks)


def _failure(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamFailure:
    """What a status means by itself (RFC 9110 §15)."""
    wait_s = retry_after_s(headers, body)
    if status == 429 or (status >= 500 and wait_s):
        return Busy(f"HTTP {status}", wait_s)
    if status >= 500 or status in _RETRIED or status < 300:
        return NoAnswer(f"HTTP {status}", wait_s)
    if status < 400:
        return Refused(f"HTTP {status}: a redirect, which is not followed; check base_url")
    return Refused(f"HTTP {status}")
