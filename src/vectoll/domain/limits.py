"""Rate limits and what was decided about one request."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``amount`` per ``window_s`` seconds."""

    amount: int
    window_s: int = 60


@dataclass(frozen=True, slots=True)
class LimitState:
    """Where a caller stands with one limit: becomes ``x-ratelimit-{limit,remaining,reset}-*``."""

    limit: int
    remaining: int
    reset_s: int
    """Whole seconds until the window is fresh, at least 0."""


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """Whether a hit was allowed, and the state after it."""

    allowed: bool
    state: LimitState
