"""Which of a model's base URLs is asked: the least busy healthy one, those that fail left alone for a while."""

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

FAILURES_BEFORE_EJECTION = 3
EJECTION_S = 5.0
CLOCK_STEP_S = 0.01
"""A wait with less than this left is over: timers may end a little early."""
MAX_EJECTION_S = 60.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """One base URL and how it has done. Times are seconds of a monotonic clock."""

    url: str
    in_flight: int = 0
    failures: int = 0
    """Failures since the last answer."""
    ejected_until: float = 0.0
    waits_until: float = 0.0
    """It has said when it wants to be asked again."""
    last_used: float = 0.0

    @property
    def is_suspect(self) -> bool:
        """Its last answers all failed: when its time is up it gets one call, and the next only if that works."""
        return self.failures >= FAILURES_BEFORE_EJECTION


class Endpoints:
    """Passive health: learns only from the calls that are made anyway."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float]) -> None:
        self._all = tuple(Endpoint(url) for url in urls)
        self._clock = clock

    def __len__(self) -> int:
        return len(self._all)

    def healthy(self, tried: AbstractSet[Endpoint] = frozenset()) -> Endpoint | None:
        """The least busy healthy endpoint that was not tried; the longest unused breaks a tie. None: there is none."""
        now = self._clock()
        usable = [e for e in self._all if e not in tried and _is_usable(e, now)]
        return min(usable, key=lambda e: (e.in_flight, e.last_used), default=None)

    def any(self) -> Endpoint:
        """A healthy endpoint, else the one that is due first: with nothing left to lose, try."""
        return self.healthy() or min(self._all, key=lambda e: e.ejected_until)

    def started(self, endpoint: Endpoint) -> None:
        """A call begins."""
        endpoint.in_flight += 1
        endpoint.last_used = self._clock()

    def finished(self, endpoint: Endpoint) -> None:
        """A call ended, however."""
        endpoint.in_flight -= 1

    def answered(self, endpoint: Endpoint) -> None:
        """It works. It may have been asked before it said when it wants to be asked again."""
        endpoint.failures = 0
        endpoint.ejected_until = endpoint.waits_until

    def failed(self, endpoint: Endpoint) -> bool:
        """It did not answer, or with nonsense. From the third time in a row it is left alone, longer each time.

        Calls that were under way when it came to that say nothing new. Returns whether it is left alone now.
        """
        if endpoint.is_suspect and self._clock() < endpoint.ejected_until:
            return True
        endpoint.failures += 1
        excess = endpoint.failures - FAILURES_BEFORE_EJECTION
        if excess < 0:
            return False
        pause_s = min(MAX_EJECTION_S, EJECTION_S * 2.0 ** min(excess, 16))
        endpoint.ejected_until = self._clock() + pause_s
        return True

    def asked_to_wait(self, endpoint: Endpoint, seconds: float | None) -> None:
        """It is well, and busy; for so many seconds, where it has said so."""
        until = self._clock() + min(MAX_EJECTION_S, seconds or 1.0)
        endpoint.ejected_until = max(endpoint.ejected_until, until)
        if seconds:
            endpoint.waits_until = max(endpoint.waits_until, until)

    def wait_s(self, endpoint: Endpoint) -> float:
        """How long it still wants not to be asked: who asks all the same is only told to wait for longer."""
        left_s = endpoint.waits_until - self._clock()
        return left_s if left_s > CLOCK_STEP_S else 0.0


def _is_usable(endpoint: Endpoint, now: float) -> bool:
    return now >= endpoint.ejected_until and not (endpoint.is_suspect and endpoint.in_flight)
