"""What the core reports about itself."""

from enum import StrEnum
from typing import Literal, Protocol

Stage = Literal["tokenize", "hold", "encode", "queue", "charge", "serialise", "compress"]
"""A stage of a request that is timed; ``queue`` is the first part of ``encode``."""


class UpstreamOutcome(StrEnum):
    """How one call to an upstream ended."""

    ANSWERED = "answered"
    INPUT_REFUSED = "input_refused"
    """The input's fault: the caller is told."""
    BUSY = "busy"
    """429, or 5xx that says when to come back."""
    NO_ANSWER = "no_answer"
    """Refused or cut connection, timeout, 5xx."""
    BAD_ANSWER = "bad_answer"
    """Status 200, and not what the protocol promises."""
    REFUSED = "refused"
    """Key, quota, model name, URL: the operator must act."""
    ABANDONED = "abandoned"
    """Nobody waits for it any more."""


class Reattempt(StrEnum):
    """How a call to an upstream that failed is made again."""

    FAILOVER = "failover"
    """At once, at another base URL."""
    RETRY = "retry"
    """After a pause."""


class Metrics(Protocol):
    """Each call is cheap and never raises."""

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """Time spent in one stage of a request."""
        ...

    def embedded(self, model: str, inputs: int, tokens: int) -> None:
        """A request was answered."""
        ...

    def batch(self, model: str, sequences: int, tokens: int, padded_tokens: int, budget_tokens: int) -> None:
        """One batch ran: its fill is ``tokens / budget``, its padding waste ``padded_tokens - tokens``."""
        ...

    def queued(self, model: str, tokens: int) -> None:
        """How many tokens now wait for an engine."""
        ...

    def charged(self, model: str, units: int) -> None:
        """A charge was committed, in units of 10⁻¹² USD."""
        ...

    def upstream_called(self, model: str, host: str, outcome: UpstreamOutcome, seconds: float) -> None:
        """One call to one base URL ended. ``host`` is that of a setting, so its values are few."""
        ...

    def upstream_reattempted(self, model: str, how: Reattempt) -> None:
        """A call that failed is made again."""
        ...


class ServerMetrics(Metrics, Protocol):
    """What the HTTP layer reports as well."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered. ``route`` is the path template, so its values are few; "" when none matched.

        ``status`` is 499 for a client that left before the answer.
        """
        ...

    def render(self) -> bytes:
        """Everything in Prometheus's text format 0.0.4."""
        ...


class NoMetrics:
    """Reports nothing."""

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """Ignored."""

    def embedded(self, model: str, inputs: int, tokens: int) -> None:
        """Ignored."""

    def batch(self, model: str, sequences: int, tokens: int, padded_tokens: int, budget_tokens: int) -> None:
        """Ignored."""

    def queued(self, model: str, tokens: int) -> None:
        """Ignored."""

    def charged(self, model: str, units: int) -> None:
        """Ignored."""

    def upstream_called(self, model: str, host: str, outcome: UpstreamOutcome, seconds: float) -> None:
        """Ignored."""

    def upstream_reattempted(self, model: str, how: Reattempt) -> None:
        """Ignored."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Ignored."""

    def render(self) -> bytes:
        """Nothing."""
        return b""
