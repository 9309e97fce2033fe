"""Where finished spans go."""

from collections.abc import Sequence
from typing import Protocol

from vectoll.domain.traces import Span, SpanContext


class SpanSink(Protocol):
    """Thread-safe. No call blocks or raises: spans that cannot be delivered are dropped."""

    def is_sampled(self, trace_id: int, parent: SpanContext | None) -> bool:
        """Whether a trace that begins here, or that ``parent`` continues, is worth recording."""
        ...

    def export(self, spans: Sequence[Span]) -> None:
        """Take a request's spans, to be sent later."""
        ...
