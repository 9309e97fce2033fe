"""Spans to an OpenTelemetry collector, by OTLP over HTTP with protobuf.

What the settings leave open follows OpenTelemetry's own environment variables: ``OTEL_SERVICE_NAME``,
``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_*``, ``OTEL_BSP_*``.
"""

from collections.abc import Sequence
from threading import Thread

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, Status, StatusCode, TraceFlags

from vectoll import __version__
from vectoll.domain.traces import Span, SpanContext, SpanKind

FLUSH_S = 5.0
"""How long the last spans may take to reach the collector when the server stops."""
TRACES_PATH = "/v1/traces"

_KINDS = {
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
}
_SCOPE = InstrumentationScope("vectoll", __version__)


class OtelSpans:
    """A SpanSink. The SDK's own thread sends; what it cannot keep up with is dropped."""

    def __init__(self, endpoint: str | None, sample_ratio: float | None) -> None:
        """``endpoint`` is the collector's base URL or the full one that ends in ``/v1/traces``.

        A trace that a caller began is recorded if the caller records it; of those that begin here, ``sample_ratio``
        are recorded.
        """
        sampler = None if sample_ratio is None else ParentBased(TraceIdRatioBased(sample_ratio))
        # the provider is what reads the environment; spans are finished when they come here, so no tracer is needed
        provider = TracerProvider(sampler, _resource(), shutdown_on_exit=False)
        self._sampler, self._resource = provider.sampler, provider.resource
        self._exporter = OTLPSpanExporter(None if endpoint is None else _traces_url(endpoint))
        self._processor = BatchSpanProcessor(self._exporter)

    def is_sampled(self, trace_id: int, parent: SpanContext | None) -> bool:
        """What the sampler says."""
        above = None
        if parent is not None:
            above = trace.set_span_in_context(NonRecordingSpan(_context(parent, is_remote=True)))
        decision: Decision = self._sampler.should_sample(above, trace_id, "request").decision
        return decision is Decision.RECORD_AND_SAMPLE

    def export(self, spans: Sequence[Span]) -> None:
        """Queue them."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what is queued, for at most ``FLUSH_S`` seconds."""
        flushing = Thread(target=self._processor.shutdown, name="otel-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        if flushing.is_alive():
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # cuts short a wait for a collector that is gone

    def _readable(self, span: Span) -> ReadableSpan:
        parent = None if span.parent is None else _context(span.parent, is_remote=span.is_parent_remote)
        return ReadableSpan(
            name=span.name,
            context=_context(span.context, is_remote=False),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.is_error else StatusCode.UNSET),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=_SCOPE,
        )


def _context(context: SpanContext, *, is_remote: bool) -> trace.SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return trace.SpanContext(context.trace_id, context.span_id, is_remote, flags)


def _resource() -> Resource:
    """The environment's, as `vectoll` where it names no service."""
    found = Resource.create({SERVICE_VERSION: __version__})
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "vectoll"}))
    return found


def _traces_url(endpoint: str) -> str:
    base = endpoint.rstrip("/")
    return base if base.endswith(TRACES_PATH) else base + TRACES_PATH
