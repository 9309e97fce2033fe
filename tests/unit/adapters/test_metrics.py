"""PrometheusMetrics: what GET /metrics says."""

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.ports.metrics import NoMetrics, ServerMetrics


def samples(metrics: PrometheusMetrics) -> dict[tuple[str, ...], float]:
    """``(name, *label values, in the order of the labels' names)`` → value."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(sample.name, *sample.labels.values()): sample.value for f in families for sample in f.samples}


def test_embedded_counts_requests_inputs_and_tokens() -> None:
    metrics = PrometheusMetrics()
    metrics.embedded("m", inputs=3, tokens=40)
    metrics.embedded("m", inputs=1, tokens=2)
    seen = samples(metrics)
    assert seen["vectoll_requests_total", "m"] == 2
    assert seen["vectoll_inputs_total", "m"] == 4
    assert seen["vectoll_tokens_total", "m"] == 42


def test_batch_reports_fill_and_padding() -> None:
    metrics = PrometheusMetrics()
    metrics.batch("m", sequences=4, tokens=190, padded_tokens=240, budget_tokens=256)
    seen = samples(metrics)
    assert seen["vectoll_batch_tokens_total", "m"] == 190
    assert seen["vectoll_padding_tokens_total", "m"] == 50
    assert seen["vectoll_batch_fill_ratio_sum", "m"] == pytest.approx(190 / 256)
    assert seen["vectoll_batch_sequences_sum", "m"] == 4


def test_queue_is_a_gauge() -> None:
    metrics = PrometheusMetrics()
    metrics.queued("m", 500)
    metrics.queued("m", 20)
    assert samples(metrics)["vectoll_queue_tokens", "m"] == 20


def test_charged_is_in_dollars() -> None:
    metrics = PrometheusMetrics()
    metrics.charged("m", 12_500)
    metrics.charged("m", 3 * 10**12)
    seen = samples(metrics)
    assert seen["vectoll_charges_total", "m"] == 2
    assert seen["vectoll_charged_usd_total", "m"] == pytest.approx(3.0000000125)


def test_stages_and_answers_are_histograms_by_label() -> None:
    metrics = PrometheusMetrics()
    metrics.stage("m", "encode", 0.004)
    metrics.stage("m", "encode", 0.2)
    metrics.stage("m", "hold", 0.0001)
    metrics.answered("POST", "/v1/embeddings", 200, 0.02)
    metrics.answered("POST", "/v1/embeddings", 429, 0.02)
    seen = samples(metrics)
    assert seen["vectoll_stage_seconds_count", "m", "encode"] == 2
    assert seen["vectoll_stage_seconds_bucket", "0.005", "m", "encode"] == 1
    assert seen["vectoll_stage_seconds_bucket", "+Inf", "m", "encode"] == 2
    assert seen["vectoll_stage_seconds_count", "m", "hold"] == 1
    assert seen["vectoll_http_request_seconds_count", "POST", "/v1/embeddings", "200"] == 1
    assert seen["vectoll_http_request_seconds_count", "POST", "/v1/embeddings", "429"] == 1


def test_process_metrics_are_there_and_two_instances_share_nothing() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.embedded("m", 1, 1)
    assert samples(first)["process_resident_memory_bytes",] > 1_000_000
    assert ("vectoll_requests_total", "m") not in samples(second)


def test_both_implementations_are_server_metrics() -> None:
    implementations: list[ServerMetrics] = [PrometheusMetrics(), NoMetrics()]
    for metrics in implementations:
        metrics.embedded("m", 1, 1)
        metrics.batch("m", 1, 1, 1, 1)
        assert isinstance(metrics.render(), bytes)


def test_importing_vectoll_starts_nothing() -> None:
    code = (
        "import vectoll, sys, threading; assert threading.active_count() == 1; assert len(sys.modules) < 150"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
