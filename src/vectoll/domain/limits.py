"""Rate limits and what was decided about one request."""

from dataclasses import dataclass
from math import floor
from typing import NamedTuple

from vectoll.domain.errors import RateLimited

EXACT_UP_TO = 10_000
"""A limit of up to this is an exact moving window, which remembers every hit (some 100 bytes each); a larger one, such
as tokens per minute, is estimated by ``SlidingWindow``."""


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
        """The error for who may not go on; ``limit`` says what in a minute was too much."""
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


class SlidingWindow(NamedTuple):
    """What was counted in the window that runs, and in the one before, whose hits are taken to be spread evenly.

    Windows start at multiples of their length; ``left_s`` of the running one are still to come.
    """

    window_s: float
    left_s: float
    previous: int
    current: int

    @property
    def used(self) -> int:
        """What counts now, by estimate, rounded down."""
        return floor(self.previous * self.left_s / self.window_s + self.current)

    def wait_s(self, at_most: int) -> float:
        """How long until ``at_most`` is used, if nothing is added; 0 where no more is."""
        if self.used <= at_most:
            return 0.0
        room = at_most + 1  # what the estimate must stay below
        if self.current < room:  # it is enough that the previous window slides out further
            return self.left_s - (room - self.current) * self.window_s / self.previous
        return self.left_s + self.window_s - room * self.window_s / self.current
