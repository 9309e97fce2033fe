"""What the core reports about itself."""

from typing import Protocol


class Metrics(Protocol):
    """Each call is cheap and never raises."""

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Time spent in one stage of a request: tokenize, hold, encode (and queue, its first part), charge."""
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


class ServerMetrics(Metrics, Protocol):
    """What the HTTP layer reports as well: its own stages are serialise and compress."""

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

    def stage(self, model: str, stage: str, seconds: float) -> None:
        """Ignored."""

    def embedded(self, model: str, inputs: int, tokens: int) -> None:
        """Ignored."""

    def batch(self, model: str, sequences: int, tokens: int, padded_tokens: int, budget_tokens: int) -> None:
        """Ignored."""

    def queued(self, model: str, tokens: int) -> None:
        """Ignored."""

    def charged(self, model: str, units: int) -> None:
        """Ignored."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Ignored."""

    def render(self) -> bytes:
        """Nothing."""
        return b""
