"""Which of a model's base URLs is asked: the least busy healthy one. One that keeps failing is ejected for a while.

When none is healthy, one that is not is asked: there is nothing to lose. But few calls at a time go to one that does
not answer at all.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from vectoll.adapters.upstreams.failures import NotAsked

FAILURES_BEFORE_EJECTION = 3
EJECTION_S = 5.0
CLOCK_STEP_S = 0.01
"""A wait with less than this left is over: timers may end a little early."""
MAX_EJECTION_S = 60.0
MAX_HEEDED_S = 3600.0
"""The longest that an endpoint is not asked because it has said so: what it wants may have been a mistake."""
MAX_TRIAL_WAIT_S = 1.0
"""How long to wait for the outcome of a call that another request makes."""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One base URL and how it has done. Times are seconds of a monotonic clock."""

    url: str
    in_flight: int = 0
    failures: int = 0
    """Failures since the last answer."""
    ejected_until: float = 0.0
    waits_until: float = 0.0
    """When it wants to be asked again, by its own ``retry-after``."""
    last_used: float = 0.0
    silences: int = 0
    """Calls in a row without an answer of any kind."""
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the call that finds out whether a silent one answers again."""
    tried_for: asyncio.Event | None = None
    """The request of that call, by the event that says that it is abandoned."""

    @property
    def is_suspect(self) -> bool:
        """Its last answers all failed: when its time is up it gets one call, and the next only if that works."""
        return self.failures >= FAILURES_BEFORE_EJECTION

    @property
    def is_silent(self) -> bool:
        """Its last calls all came to nothing, and may have taken their whole time for that."""
        return self.silences >= FAILURES_BEFORE_EJECTION


class Endpoints:
    """Passive health: learns only from the calls that are made anyway."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float]) -> None:
        self._all = tuple(Endpoint(url) for url in urls)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._all)

    def healthy(self, tried: AbstractSet[Endpoint] = frozenset()) -> Endpoint | None:
        """The least busy healthy endpoint not yet tried, the longest unused of equals; None where there is none."""
        now = self._clock()
        usable = [e for e in self._all if e not in tried and _is_usable(e, now)]
        return min(usable, key=lambda e: (e.in_flight, e.last_used), default=None)

    def any(self) -> Endpoint:
        """A healthy endpoint; else the one whose ejection ends first, of those that no other call is trying out."""
        return self.healthy() or min(
            self._all, key=lambda e: (e.is_silent and e.trial.locked(), e.ejected_until)
        )

    @asynccontextmanager
    async def turn(self, endpoint: Endpoint, abandoned: asyncio.Event) -> AsyncIterator[None]:
        """A call's turn. Endpoints that answer take any number; a silent one takes one call at a time, and one more
        every few seconds, so that what hangs holds up few requests.

        Raises NotAsked where the call that tries it out takes longer than a moment, or nobody waits any more
        (``abandoned``, one for all calls of a request).
        """
        is_trial = endpoint.is_silent and await self._begin_trial(endpoint, abandoned)
        try:
            if abandoned.is_set():
                raise NotAsked("nobody waits for it")
            yield
        finally:
            if is_trial:
                endpoint.trial.release()

    async def _begin_trial(self, endpoint: Endpoint, abandoned: asyncio.Event) -> bool:
        """Whether others now wait for this call's outcome. Raises NotAsked."""
        since_s = self._clock() - endpoint.last_used
        if endpoint.trial.locked() and since_s >= EJECTION_S:
            return False
        is_own = endpoint.trial.locked() and endpoint.tried_for is abandoned
        try:
            async with asyncio.timeout(None if is_own else max(0.0, MAX_TRIAL_WAIT_S - since_s)):
                await endpoint.trial.acquire()
        except TimeoutError:
            if endpoint.is_silent:
                raise NotAsked("silent", EJECTION_S) from None
            return False
        endpoint.tried_for = abandoned
        if not endpoint.is_silent:
            endpoint.trial.release()
        return endpoint.is_silent

    def started(self, endpoint: Endpoint) -> None:
        """A call begins."""
        endpoint.in_flight += 1
        endpoint.last_used = self._clock()

    def finished(self, endpoint: Endpoint) -> None:
        """A call ended, however."""
        endpoint.in_flight -= 1

    def answered(self, endpoint: Endpoint) -> None:
        """It works. It may have been asked before it said when it wants to be asked again."""
        endpoint.failures = endpoint.silences = 0
        endpoint.ejected_until = endpoint.waits_until

    def failed(self, endpoint: Endpoint, *, is_silent: bool) -> bool:
        """It did not answer, or with nonsense. From the third time in a row it is ejected, longer each time.

        Failures of calls that were under way by then do not count. Returns whether it is ejected now.
        """
        endpoint.silences = endpoint.silences + 1 if is_silent else 0
        if endpoint.is_suspect and self._clock() < endpoint.ejected_until:
            return True
        endpoint.failures += 1
        excess = endpoint.failures - FAILURES_BEFORE_EJECTION
        if excess < 0:
            return False
        pause_s = min(MAX_EJECTION_S, EJECTION_S * 2.0 ** min(excess, 16))
        endpoint.ejected_until = self._clock() + pause_s
        return True

    def asked_to_wait(self, endpoint: Endpoint, seconds: float | None) -> float:
        """It works, and is busy: for ``seconds`` by its own word, None without one. Returns how many are heeded."""
        endpoint.failures = endpoint.silences = 0
        heeded_s = min(MAX_HEEDED_S, seconds or 1.0)
        until = self._clock() + heeded_s
        endpoint.ejected_until = max(endpoint.ejected_until, until)
        if seconds:
            endpoint.waits_until = max(endpoint.waits_until, until)
        return heeded_s

    def wait_s(self, endpoint: Endpoint) -> float:
        """How long it still wants not to be asked. Asking sooner would only make it ask for longer."""
        left_s = endpoint.waits_until - self._clock()
        return left_s if left_s > CLOCK_STEP_S else 0.0


def _is_usable(endpoint: Endpoint, now: float) -> bool:
    return now >= endpoint.ejected_until and not (endpoint.is_suspect and endpoint.in_flight)
