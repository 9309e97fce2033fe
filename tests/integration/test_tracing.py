"""Traces of real servers, as a collector gets them: one vectoll in front of another."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live import MODEL, Key, Server, Vectoll
from tests.otlp import Collector, Seen, otlp_collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SECRET = "what nobody else may read"
BOUGHT = """
[[models]]
id = "bought"
kind = "openai"
base_url = "{url}/v1"
api_key_env = "KEY_OF_THE_NEXT"
upstream_model = "{model}"
dims = 384
max_tokens = 256
price_usd_per_million = "1"

[[models]]
id = "{model}"
enabled = false
"""


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # the SDK waits 5 s for more
    with otlp_collector() as collector:
        yield collector


def traced(
    home: Path, service: str, collector: Collector, monkeypatch: pytest.MonkeyPatch, config: str = ""
) -> Vectoll:
    monkeypatch.setenv("OTEL_SERVICE_NAME", service)
    return Vectoll(home, config, tracing__enabled=True, tracing__endpoint=collector.url)


def embed(server: Server, key: Key, model: str, flags: str = "01") -> int:
    with server.client(key) as client:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}", "tracestate": "vendor=1"}
        answer = client.post("/v1/embeddings", json={"model": model, "input": SECRET}, headers=headers)
    return answer.status_code


def access_lines(server: Server) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [line for line in lines if line.get("route") == "/v1/embeddings"]


def test_one_trace_from_the_caller_through_a_gateway_to_the_engine_behind_the_next(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = traced(tmp_path / "back", "back", collector, monkeypatch)
    back_key = back.create_key()
    monkeypatch.setenv("KEY_OF_THE_NEXT", back_key.secret)
    with back.serve() as behind:
        config = BOUGHT.format(url=behind.url, model=MODEL)
        front = traced(tmp_path / "front", "front", collector, monkeypatch, config)
        key = front.create_key()
        with front.serve() as gateway:
            assert embed(gateway, key, "bought") == 200
            spans = collector.wait_for(18)
            front_line, back_line = access_lines(gateway)[0], access_lines(behind)[0]

    stages = ["auth", "charge", "compress", "encode", "hold", "serialise", "tokenize"]
    request = "POST /v1/embeddings"
    tree = collector.tree(spans)
    assert tree == {
        "": [f"front {request}"],
        f"front {request}": [f"front {stage}" for stage in stages],
        "front encode": ["front upstream"],
        "front upstream": [f"back {request}"],
        f"back {request}": [f"back {stage}" for stage in stages],
        "back encode": ["back queue"],
    }
    root = next(s for s in spans if (s.service, s.span.name) == ("front", request))
    assert root.span.parent_span_id.hex() == CALLER
    assert {s.span.trace_id.hex() for s in spans} == {TRACE}
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "gen_ai.request.model": "bought",
        "gen_ai.usage.input_tokens": front_line["tokens"],
    }
    assert front_line["tokens"]
    assert (front_line["trace_id"], back_line["trace_id"]) == (TRACE, TRACE)
    assert_nested(spans)
    for told in (SECRET, key.secret, key.id, back_key.secret, "127.0.0.1", str(front_line["account"])):
        assert not any(told.encode() in body for body in collector.raw), told


def assert_nested(spans: list[Seen]) -> None:
    """Each span lies within its parent, where both are of one process."""
    by_id = {seen.span.span_id: seen for seen in spans}
    for seen in spans:
        parent = by_id.get(seen.span.parent_span_id)
        if parent and parent.service == seen.service:
            inner, outer = seen.span, parent.span
            assert outer.start_time_unix_nano <= inner.start_time_unix_nano, inner.name
            assert inner.start_time_unix_nano <= inner.end_time_unix_nano <= outer.end_time_unix_nano, (
                inner.name
            )


def test_what_its_caller_does_not_record_is_not_recorded_and_refusals_say_why(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectoll = traced(tmp_path, "one", collector, monkeypatch)
    key = vectoll.create_key()
    with vectoll.serve() as server:
        assert embed(server, key, MODEL, flags="00") == 200
        assert embed(server, key, "no-such-model") == 404
        assert embed(server, Key("", "vtk_wrong"), MODEL) == 401
        with server.client() as client:
            assert client.get("/health").status_code == 200
        collector.wait_for(4)
    lines = access_lines(server)
    assert [line["trace_id"] for line in lines] == [TRACE] * 3
    roots = [seen for seen in collector.seen if seen.span.parent_span_id.hex() == CALLER]
    assert [(seen.attributes["http.response.status_code"], seen.is_error) for seen in roots] == [
        (404, False),
        (401, False),
    ]
    assert [seen.attributes["error.type"] for seen in roots] == [line["code"] for line in lines[1:]]
    assert [seen.span.name for seen in collector.seen if seen not in roots] == ["auth", "auth"]
    assert "gen_ai.request.model" not in roots[0].attributes, "a stranger's word is no attribute"


def test_a_collector_that_is_gone_costs_no_answer_and_holds_no_stop_up(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.url = "http://127.0.0.1:9"
    vectoll = traced(tmp_path, "one", collector, monkeypatch)
    key = vectoll.create_key()
    with vectoll.serve() as server:
        assert [embed(server, key, MODEL) for _ in range(3)] == [200] * 3
        started = time.monotonic()
        server.terminate()
        assert server.process.wait(60) == 0
    assert time.monotonic() - started < 15
    assert SECRET not in server.log.read_text()
