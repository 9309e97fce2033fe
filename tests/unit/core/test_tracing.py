"""Traces: what is continued, what is noted, what it costs when it is off."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.adapters.otel import OtelSpans
from vectoll.bootstrap import open_tracer
from vectoll.core.tracing import TracedAuthenticator, TracedMetrics, Tracer, current_trace, onward
from vectoll.domain.errors import ConfigurationError, Unauthenticated
from vectoll.domain.identity import Principal
from vectoll.domain.ids import AccountId
from vectoll.domain.traces import MAX_STATE, Span, SpanContext, SpanKind, read_context
from vectoll.settings import TracingSettings

CLIENT = "address:192.0.2.1"

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@dataclass
class Kept:
    """A SpanSink that keeps what it gets."""

    is_recording: bool = True
    spans: list[Span] = field(default_factory=list)

    def is_sampled(self, trace_id: int, parent: SpanContext | None) -> bool:
        return self.is_recording

    def export(self, spans: Sequence[Span]) -> None:
        self.spans += spans


def test_context_is_read_and_written_as_the_standard_says() -> None:
    headers = {**PARENT, "tracestate": "a=1,b=2"}
    context = read_context(headers)
    assert context == SpanContext(int(TRACE, 16), int(CALLER, 16), True, "a=1,b=2")
    assert context.headers() == headers
    unsampled = read_context({"traceparent": f"00-{TRACE}-{CALLER}-02"})
    assert unsampled is not None
    assert not unsampled.is_sampled
    later_version = read_context({"traceparent": f"cc-{TRACE}-{CALLER}-01-what-is-new"})
    assert later_version is not None
    assert later_version.headers() == PARENT


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}-1",
        f"00-{TRACE}-{CALLER}-01\n",
        f"00-{TRACE}-{CALLER}-01,00-{TRACE}-{CALLER}-01",
    ],
)
def test_what_is_no_context_begins_a_new_trace(parent: str) -> None:
    assert read_context({"traceparent": parent}) is None


@pytest.mark.parametrize("state", ["x" * (MAX_STATE + 1), "a=é", "a=\x00"])
def test_a_state_that_cannot_be_passed_on_is_left_out(state: str) -> None:
    context = read_context({**PARENT, "tracestate": state})
    assert context is not None
    assert context.headers() == PARENT


def test_stages_and_calls_become_spans_below_their_request() -> None:
    kept = Kept()
    metrics = TracedMetrics(PrometheusMetrics())
    with Tracer(kept).trace("request", PARENT) as trace:
        metrics.stage("m", "hold", 0.001)
        with onward("replica") as headers:
            carried = dict(headers)
        metrics.stage("m", "queue", 0.002)
        metrics.stage("m", "encode", 0.005)
        trace.attributes["tokens"] = 3
    root, *parts = kept.spans
    spans = {span.name: span for span in parts}
    encode = spans["encode"]
    assert {name: span.parent.span_id for name, span in spans.items() if span.parent} == {
        "hold": root.context.span_id,
        "encode": root.context.span_id,
        "replica": encode.context.span_id,
        "queue": encode.context.span_id,
    }
    assert read_context(carried) == spans["replica"].context
    assert (root.parent, root.is_parent_remote) == (read_context(PARENT), True)
    assert (root.attributes, encode.attributes) == ({"tokens": 3}, {})
    assert spans["queue"].start_ns == encode.start_ns, "waiting is the first part of encoding"
    assert spans["queue"].end_ns - spans["queue"].start_ns == 2_000_000
    assert (root.kind, encode.kind, spans["replica"].kind) == (
        SpanKind.SERVER,
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
    )
    assert b'stage="encode"' in metrics.render(), "the metrics are counted all the same"
    assert current_trace() is None


def test_what_is_not_recorded_is_carried_on_all_the_same() -> None:
    kept = Kept(is_recording=False)
    with Tracer(kept).trace("request", PARENT) as trace, onward("replica") as headers:
        trace.stage("encode", 1)
        context = read_context(headers)
    assert context is not None
    assert (f"{context.trace_id:032x}", context.is_sampled) == (TRACE, False)
    assert kept.spans == []


def test_a_call_that_fails_is_an_error_of_its_own() -> None:
    kept = Kept()
    with pytest.raises(OSError, match="gone"), Tracer(kept).trace("request", {}), onward("replica"):
        raise OSError("gone")
    assert [(span.name, span.is_error) for span in kept.spans] == [("request", True), ("replica", True)]
    assert kept.spans[1].parent == kept.spans[0].context, "with no encode stage it hangs from the request"


def test_outside_a_request_nothing_is_noted_and_nothing_is_carried() -> None:
    with onward("replica") as headers:
        assert headers == {}
    TracedMetrics(PrometheusMetrics()).stage("m", "encode", 1)


@pytest.mark.parametrize(("token", "stages"), [("mine", ["auth"]), ("wrong", ["auth"]), ("not mine", [])])
async def test_an_authenticators_decision_is_a_stage(token: str, stages: list[str]) -> None:
    class Asked:
        async def authenticate(self, headers: Mapping[str, str], client: str = "") -> Principal | None:
            if headers["token"] == "wrong":
                raise Unauthenticated("no")
            return Principal(AccountId("a")) if headers["token"] == "mine" else None

    kept = Kept()
    with Tracer(kept).trace("request", {}):
        try:
            found = await TracedAuthenticator(Asked()).authenticate({"token": token}, CLIENT)
            assert (found is not None) == (token == "mine")
        except Unauthenticated:
            assert token == "wrong"
    assert [span.name for span in kept.spans[1:]] == stages


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 1000), (0.5, 500)])
def test_a_share_of_the_traces_that_begin_here_is_recorded(ratio: float, expected: int) -> None:
    spans = OtelSpans("http://127.0.0.1:9", ratio)
    try:
        ids = [n * (2**64 // 1000) for n in range(1000)]
        assert abs(sum(spans.is_sampled(i, None) for i in ids) - expected) <= 1
        for is_sampled in (False, True):
            assert spans.is_sampled(1, SpanContext(1, 1, is_sampled)) == is_sampled, "the caller decides"
    finally:
        spans.close()


def test_the_environment_decides_what_the_settings_leave_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    spans = OtelSpans(None, None)
    assert not spans.is_sampled(1, SpanContext(1, 1, True))
    spans.close()


async def test_it_is_off_unless_it_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_tracer(TracingSettings()) as tracer:
        assert tracer is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with open_tracer(TracingSettings(enabled=True)) as tracer:
        assert tracer is None


def test_where_it_is_off_its_library_is_not_even_loaded() -> None:
    code = "import sys, vectoll.server.serving; assert not [m for m in sys.modules if m.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vectoll.adapters.otel", None)
    with pytest.raises(ConfigurationError, match=r"pip install \"\.\[otel\]\""):
        async with open_tracer(TracingSettings(enabled=True)):
            pass
