"""Spans as plain values, and the W3C's Trace Context: how a trace goes from process to process.

https://www.w3.org/TR/trace-context/
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

MAX_STATE = 512
"""Characters of ``tracestate`` that are passed on; a longer one is left out whole."""

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(rf"[\x20-\x7e]{{1,{MAX_STATE}}}")


class SpanKind(StrEnum):
    """Where a span stands between processes."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class SpanContext:
    """What one process tells the next about a span. Ids are never 0."""

    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits."""
    is_sampled: bool
    state: str = ""
    """``tracestate``: what other tracing systems on the way wrote down for themselves."""

    def headers(self) -> dict[str, str]:
        """``traceparent``, and ``tracestate`` where there is one."""
        parent = f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.is_sampled):02x}"
        return {"traceparent": parent, "tracestate": self.state} if self.state else {"traceparent": parent}


def read_context(headers: Mapping[str, str]) -> SpanContext | None:
    """The caller's span from its headers (lower-case names); None for none, or one that is not well-formed."""
    found = _PARENT.fullmatch(headers.get("traceparent", ""))
    if found is None or (found[4] and found[0].startswith("00")):
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.group(1, 2, 3))
    if not (trace_id and span_id):
        return None
    state = headers.get("tracestate", "")
    return SpanContext(trace_id, span_id, bool(flags & 1), state if _STATE.fullmatch(state) else "")


@dataclass(frozen=True, slots=True)
class Span:
    """One finished piece of work. Times are nanoseconds since 1970 UTC."""

    name: str
    kind: SpanKind
    context: SpanContext
    parent: SpanContext | None
    is_parent_remote: bool
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int]
    is_error: bool
