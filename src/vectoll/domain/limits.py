"""Rate limits and what was decided about one request."""

from dataclasses import dataclass
from math import floor

from vectoll.domain.errors import RateLimited

EXACT_UP_TO = 10_000
"""A limit of up to this is an exact moving window, which remembers every hit (some 100 bytes each); a larger one, such
as tokens per minute, is estimated: see ``estimated_use``."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``amount`` per ``window_s`` seconds."""

    amount: int
    window_s: int = 60

    @property
    def is_exact(self) -> bool:
        """Whether every hit is remembered."""
        return self.amount <= EXACT_UP_TO


@dataclass(frozen=True, slots=True)
class LimitState:
    """Where a caller stands with one limit: becomes ``x-ratelimit-{limit,remaining,reset}-*``."""

    limit: int
    remaining: int
    reset_s: int
    """Whole seconds until the window is fresh, at least 0."""

    def refusal(self, limit: str) -> RateLimited:
        """The error for a caller over the limit, which ``limit`` names."""
        return RateLimited(
            f"Rate limit exceeded: {limit}. Try again in {self.reset_s} seconds.", self.reset_s
        )


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """Whether a hit was allowed, and the state after it."""

    allowed: bool
    state: LimitState

    def check(self, limit: str) -> None:
        """Raises RateLimited where the hit was not allowed."""
        if not self.allowed:
            raise self.state.refusal(limit)


def estimated_use(window_s: float, left_s: float, previous: int, current: int) -> int:
    """What a sliding-window counter estimates to be used, rounded down.

    Windows start at multiples of their length. ``current`` hits were counted in the running one, of which ``left_s``
    remain; the ``previous`` hits of the window before are assumed to be spread evenly.
    """
    return floor(previous * left_s / window_s + current)


def estimated_wait_s(window_s: float, left_s: float, previous: int, current: int, at_most: int) -> float:
    """How long until use falls to ``at_most``, which it exceeds now, if nothing is added. See ``estimated_use``."""
    room = at_most + 1  # what the estimate must stay below
    if current < room:  # it is enough that the previous window slides out further
        return left_s - (room - current) * window_s / previous
    return left_s + window_s - room * window_s / current
