"""What /metrics says about the calls to upstreams."""

import asyncio
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.upstreams.making import embed, upstream_model
from tests.integration.upstreams.provider_server import KEY, Fault, error, provider_server
from tests.integration.upstreams.test_failover import dead_url

from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.core.tracing import TracedMetrics
from vectoll.domain.errors import VectollError
from vectoll.domain.identity import Caller


def samples(metrics: PrometheusMetrics, name: str) -> list[tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(metrics.render().decode())
    return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]


def calls(metrics: PrometheusMetrics, url: str, name: str = "count") -> dict[str, float]:
    """How many calls to a URL ended how; or, with ``sum``, their seconds."""
    found = samples(metrics, f"vectoll_upstream_call_seconds_{name}")
    assert {labels["model"] for labels, _ in found} <= {"our-name"}
    return {labels["outcome"]: value for labels, value in found if labels["host"] == urlsplit(url).netloc}


def again(metrics: PrometheusMetrics) -> dict[str, float]:
    return {labels["how"]: value for labels, value in samples(metrics, "vectoll_upstream_again_total")}


async def test_a_call_that_works_is_counted_with_its_time() -> None:
    metrics = PrometheusMetrics()
    async with provider_server() as provider, upstream_model(provider.url, metrics=metrics) as model:
        await embed(model, ["x"])
        await embed(model, ["x"])
    assert calls(metrics, provider.url) == {"answered": 2}
    assert again(metrics) == {}
    assert 0 < calls(metrics, provider.url, "sum")["answered"] < 10


FAULTS = {
    "busy": error(429, "rate_limit_exceeded"),
    "no_answer": Fault(500, body=b""),
    "bad_answer": Fault(body=b"{"),
    "refused": error(401, "invalid_api_key"),
    "input_refused": error(400, "bad"),
}


@pytest.mark.parametrize("outcome", FAULTS)
async def test_failures_are_counted_by_kind_and_retries_apart(outcome: str) -> None:
    metrics = PrometheusMetrics()
    async with (
        provider_server(always=FAULTS[outcome]) as provider,
        upstream_model(provider.url, metrics=metrics) as model,
    ):
        with pytest.raises(VectollError):
            await embed(model, ["x"])
    times = 4 if outcome in ("busy", "no_answer") else 1
    assert calls(metrics, provider.url) == {outcome: times}
    assert again(metrics) == ({"retry": 3} if times == 4 else {})


async def test_a_wait_for_the_moment_that_others_were_told_is_no_call_and_no_retry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = PrometheusMetrics()
    async with provider_server() as provider, upstream_model(provider.url, metrics=metrics) as model:
        provider.faults.append(error(429, "rate_limit", **{"retry-after-ms": "100"}))
        first = asyncio.create_task(embed(model, ["x"]))
        await provider.until(lambda: provider.answered == 1)
        await asyncio.gather(first, *(embed(model, ["x"]) for _ in range(300)))
    assert calls(metrics, provider.url) == {"busy": 1, "answered": 301}
    assert again(metrics) == {"retry": 1}
    assert len(caplog.records) == 1


async def test_failover_is_counted_and_which_url_failed_is_seen() -> None:
    metrics, dead = PrometheusMetrics(), dead_url()
    async with provider_server() as alive, upstream_model(dead, alive.url, metrics=metrics) as model:
        for _ in range(10):
            await embed(model, ["x"])
    assert calls(metrics, alive.url) == {"answered": 10}
    assert calls(metrics, dead) == {"no_answer": 3}
    assert again(metrics) == {"failover": 3}


async def test_calls_beside_one_that_failed_are_abandoned() -> None:
    metrics, hang = PrometheusMetrics(), Fault(hang=True)
    async with (
        provider_server() as provider,
        upstream_model(provider.url, metrics=metrics, max_batch_inputs=1) as model,
    ):
        provider.faults.extend([hang, error(401, "invalid_api_key"), hang])
        await asyncio.gather(embed(model, ["x"] * 3), return_exceptions=True)
        assert calls(metrics, provider.url) == {"abandoned": 2, "refused": 1}


async def test_with_tracing_on_nothing_is_lost_and_no_label_holds_a_secret() -> None:
    metrics = PrometheusMetrics()
    async with (
        provider_server() as provider,
        upstream_model(provider.url, metrics=TracedMetrics(metrics)) as model,
    ):
        await embed(model, ["a secret text"], caller=Caller.keyless("a-secret-caller"))
    assert calls(metrics, provider.url) == {"answered": 1}
    for secret in (KEY, "a secret text", "a-secret-caller"):
        assert secret not in metrics.render().decode()
