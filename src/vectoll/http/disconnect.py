"""Work that nobody waits for any more is cancelled."""

import asyncio
from contextvars import Context
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive

WATCH_AFTER_S = 0.1
"""Work that is done sooner is not watched: a task to watch would cost more than the little that it could save."""

CLOCK_STEP_S = 0.001
"""Of uvloop's clock: what is due within a step is due."""


class CancelledOnDisconnect:
    """``async with``: cancels its body when the client leaves, and raises ClientDisconnect in its place.

    It hears of it at once from a server that calls ``client_left``. Any other is asked from ``WATCH_AFTER_S`` on: a
    client that left before, and whose work was done by then, counts as served.

    Enter it only after the whole request body was received: from then on the server has nothing else to say.
    Built like ``asyncio.timeout``: a cancellation from elsewhere passes through untouched.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._has_left = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher: asyncio.Task[None] | None = None
        self._unwatched = _unwatched()
        self._unwatched.add(self)
        _entered[self._receive] = self
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unwatched.discard(self)
        _entered.pop(self._receive, None)
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # it refers to us: a cycle would wait for the collector
        if not self._has_left:
            return
        is_ours_alone = self._task.uncancel() <= self._cancelling
        if is_ours_alone and exc_type is asyncio.CancelledError:
            raise ClientDisconnect from exc

    def watch(self) -> None:
        """Look from now on."""
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cancel()

    def cancel(self) -> None:
        """The client has left."""
        if not self._has_left:
            self._has_left = True
            self._task.cancel()


_entered: dict[Receive, CancelledOnDisconnect] = {}


def client_left(receive: Receive) -> None:
    """A server's word that the client of the request with this ``receive`` has left."""
    body = _entered.get(receive)
    if body is not None:
        body.cancel()


class _Unwatched:
    """What began less than ``WATCH_AFTER_S`` ago, oldest first. One timer for all: uvloop's cost 3 µs each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = Context()  # nobody's: what began first must not lend its own to all that follow
        self._due: dict[CancelledOnDisconnect, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, body: CancelledOnDisconnect) -> None:
        """It begins now."""
        due = self._due[body] = self.loop.time() + WATCH_AFTER_S
        if self._timer is None:
            self._timer = self.loop.call_at(due, self._look, context=self._context)

    def discard(self, body: CancelledOnDisconnect) -> None:
        """It is over."""
        self._due.pop(body, None)

    def _look(self) -> None:
        self._timer = None
        soon = self.loop.time() + CLOCK_STEP_S
        for body, due in list(self._due.items()):
            if due > soon:
                self._timer = self.loop.call_at(due, self._look, context=self._context)
                return
            del self._due[body]
            body.watch()


_last: _Unwatched | None = None
"""Of the loop that asked last."""


def _unwatched() -> _Unwatched:
    global _last  # noqa: PLW0603
    loop, unwatched = asyncio.get_running_loop(), _last
    if unwatched is None or unwatched.loop is not loop:
        unwatched = _last = _Unwatched(loop)
    return unwatched
