"""One trace per request: its stages as spans, its id in the log, its context on the way to other processes.

Nothing here runs unless tracing is on: ``TracedMetrics`` and ``TracedAuthenticator`` wrap what times the stages anyway.
To carry a trace to another process and go on with it there::

    with onward("replica") as headers:      # {} where nothing is traced
        await send(work, headers)

    with tracer.trace("embed", headers):    # in the other process
        ...
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from random import getrandbits

from vectoll.domain.identity import Principal
from vectoll.domain.traces import Span, SpanContext, SpanKind, read_context
from vectoll.ports.authenticator import Authenticator
from vectoll.ports.metrics import ServerMetrics, Stage
from vectoll.ports.spans import SpanSink

ENCODE = "encode"
QUEUE = "queue"
"""The stage that begins with, and is part of, ``ENCODE``."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A span below the root, before it is known what it is part of."""

    name: str
    kind: SpanKind
    span_id: int
    start_ns: int
    end_ns: int
    is_error: bool = False


class Trace:
    """What is known of one request while it runs. For one task and the tasks that it starts."""

    def __init__(self, name: str, kind: SpanKind, parent: SpanContext | None, sink: SpanSink) -> None:
        self.name = name
        self.kind = kind
        self.attributes: dict[str, str | int] = {}
        self.is_error = False
        trace_id = parent.trace_id if parent else getrandbits(128) or 1
        is_sampled = sink.is_sampled(trace_id, parent)
        self.context = SpanContext(trace_id, _new_id(), is_sampled, parent.state if parent else "")
        self._parent = parent
        self._parts: list[_Part] = []
        # one clock for all spans: they nest exactly
        self._offset_ns = time.time_ns() - time.perf_counter_ns()
        self._start_ns = self.now_ns()

    @property
    def id(self) -> str:
        """The trace id as everybody writes it: 32 hexadecimal digits."""
        return f"{self.context.trace_id:032x}"

    def now_ns(self) -> int:
        """Nanoseconds since 1970 UTC, never going back within one trace."""
        return time.perf_counter_ns() + self._offset_ns

    def stage(self, name: str, seconds: float) -> None:
        """A stage of the request has just ended."""
        if self.context.is_sampled:
            end_ns = self.now_ns()
            start_ns = end_ns - int(seconds * 1e9)
            self._parts.append(_Part(name, SpanKind.INTERNAL, _new_id(), start_ns, end_ns))

    @contextmanager
    def call(self, name: str) -> Iterator[Mapping[str, str]]:
        """See ``onward``."""
        span_id, start_ns, is_error = _new_id(), self.now_ns(), True
        try:
            yield self._below(span_id).headers()
            is_error = False
        finally:
            if self.context.is_sampled:
                part = _Part(name, SpanKind.CLIENT, span_id, start_ns, self.now_ns(), is_error)
                self._parts.append(part)

    def finish(self) -> list[Span]:
        """The request is over: the root first, then its parts as they ended. Empty where it is not sampled."""
        if not self.context.is_sampled:
            return []
        root = _Part(self.name, self.kind, self.context.span_id, self._start_ns, self.now_ns(), self.is_error)
        encode = next((part for part in self._parts if part.name == ENCODE), root)
        spans = [self._span(root, self._parent, is_parent_remote=self._parent is not None)]
        for part in self._parts:
            is_inside = part.name == QUEUE or part.kind is SpanKind.CLIENT
            above = encode if is_inside else root
            moved_ns = above.start_ns - part.start_ns if part.name == QUEUE else 0
            spans.append(self._span(part, self._below(above.span_id), moved_ns=moved_ns))
        return spans

    def _span(
        self, part: _Part, parent: SpanContext | None, *, is_parent_remote: bool = False, moved_ns: int = 0
    ) -> Span:
        attributes = self.attributes if part.span_id == self.context.span_id else {}
        return Span(
            name=part.name,
            kind=part.kind,
            context=self._below(part.span_id),
            parent=parent,
            is_parent_remote=is_parent_remote,
            start_ns=part.start_ns + moved_ns,
            end_ns=part.end_ns + moved_ns,
            attributes=attributes,
            is_error=part.is_error,
        )

    def _below(self, span_id: int) -> SpanContext:
        return SpanContext(self.context.trace_id, span_id, self.context.is_sampled, self.context.state)


_current: ContextVar[Trace | None] = ContextVar("vectoll.trace", default=None)


def current_trace() -> Trace | None:
    """The trace of the request that this task works for."""
    return _current.get()


@contextmanager
def onward(name: str) -> Iterator[Mapping[str, str]]:
    """A call to another process, as a span: the headers that continue the trace there, none where nothing is traced."""
    trace = _current.get()
    if trace is None:
        yield {}
        return
    with trace.call(name) as headers:
        yield headers


class Tracer:
    """Begins traces."""

    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink

    @contextmanager
    def trace(self, name: str, headers: Mapping[str, str]) -> Iterator[Trace]:
        """The context of one request. Goes on with the trace in ``headers`` (lower-case names), or begins one."""
        trace = Trace(name, SpanKind.SERVER, read_context(headers), self._sink)
        token = _current.set(trace)
        try:
            yield trace
        except BaseException:
            trace.is_error = True
            raise
        finally:
            _current.reset(token)
            self._sink.export(trace.finish())


class TracedMetrics:
    """Passes everything on to the metrics that it wraps, and notes the stages in the current trace."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._stage = metrics.stage
        self.embedded = metrics.embedded
        self.batch = metrics.batch
        self.queued = metrics.queued
        self.charged = metrics.charged
        self.upstream_called = metrics.upstream_called
        self.upstream_reattempted = metrics.upstream_reattempted
        self.answered = metrics.answered
        self.render = metrics.render

    def stage(self, model: str, stage: Stage, seconds: float) -> None:
        """Time spent in one stage of a request."""
        self._stage(model, stage, seconds)
        if trace := _current.get():
            trace.stage(stage, seconds)


class TracedAuthenticator:
    """An authenticator whose decisions are a stage of the request. "Not mine" is no decision."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, headers: Mapping[str, str], client: str) -> Principal | None:
        """See ``Authenticator.authenticate``."""
        started, principal, is_mine = time.perf_counter(), None, True
        try:
            principal = await self._authenticator.authenticate(headers, client)
            is_mine = principal is not None
        finally:
            if is_mine and (trace := _current.get()):
                trace.stage("auth", time.perf_counter() - started)
        return principal


def _new_id() -> int:
    return getrandbits(64) or 1
