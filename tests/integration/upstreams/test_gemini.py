"""Gemini's native batch endpoint."""

from typing import Any

import numpy as np
import pytest
from tests.integration.upstreams.making import embed, upstream_model
from tests.integration.upstreams.provider_server import KEY, Fault, provider_server, vector_of

from vectoll.domain.catalog import ModelKind, UsageMissing
from vectoll.domain.errors import (
    AtCapacity,
    InferenceFailed,
    InputTooLong,
    InvalidRequest,
    UpstreamUnavailable,
)

GEMINI: dict[str, Any] = {
    "kind": ModelKind.GEMINI,
    "usage_missing": UsageMissing.COUNT,
    "max_batch_inputs": 100,
    "max_tokens": 1000,
}


@pytest.mark.parametrize("dimensions", [None, 5])
async def test_every_input_is_its_own_request_and_gets_its_own_vector(dimensions: int | None) -> None:
    async with provider_server() as provider, upstream_model(provider.url, **GEMINI) as model:
        result = await embed(model, ["one", "two words"], dimensions)
    (seen,) = provider.seen
    assert seen.path == "/v1/models/their-name:batchEmbedContents"
    assert seen.headers["x-goog-api-key"] == KEY
    assert "authorization" not in seen.headers
    assert seen.body["requests"][1] == {
        "model": "models/their-name",
        "content": {"parts": [{"text": "two words"}]},
        "outputDimensionality": result.dims,
    }
    assert result.usage.prompt_tokens == 3
    for text, vector in zip(["one", "two words"], result.vectors, strict=True):
        assert np.allclose(np.asarray(vector), vector_of(text, result.dims), atol=1e-6)


async def test_more_than_a_hundred_inputs_are_split() -> None:
    texts = [f"text {i}" for i in range(250)]
    async with provider_server() as provider, upstream_model(provider.url, **GEMINI) as model:
        result = await embed(model, texts)
    assert sorted(len(s.body["requests"]) for s in provider.seen) == [50, 100, 100]
    assert np.allclose(np.asarray(result.vectors[249]), vector_of("text 249"), atol=1e-6)


async def test_usage_that_is_missing_is_asked_for() -> None:
    async with provider_server(with_usage=False) as provider, upstream_model(provider.url, **GEMINI) as model:
        result = await embed(model, ["one", "two words"])
    assert result.usage.prompt_tokens == 3
    assert [s.path.rpartition(":")[2] for s in provider.seen] == ["batchEmbedContents", "countTokens"]


async def test_usage_that_is_missing_is_asked_for_as_much_at_once_as_was_bought() -> None:
    texts = [f"text {i}" for i in range(250)]
    async with provider_server(with_usage=False) as provider, upstream_model(provider.url, **GEMINI) as model:
        result = await embed(model, texts)
    assert result.usage.prompt_tokens == 500
    counted = [len(s.body["contents"]) for s in provider.seen if s.path.endswith(":countTokens")]
    assert sorted(counted) == [50, 100, 100]


async def test_usage_that_is_missing_fails_when_set_so() -> None:
    how = {**GEMINI, "usage_missing": UsageMissing.FAIL}
    async with provider_server(with_usage=False) as provider, upstream_model(provider.url, **how) as model:
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["one"])


async def test_usage_that_cannot_be_counted_fails() -> None:
    async with provider_server(with_usage=False) as provider, upstream_model(provider.url, **GEMINI) as model:
        provider.faults.extend([Fault(), Fault(body=b"{}")])
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["one"])


async def test_an_input_that_would_be_cut_in_silence_is_refused_with_its_count() -> None:
    how = {**GEMINI, "max_tokens": 5}
    async with provider_server() as provider, upstream_model(provider.url, **how) as model:
        with pytest.raises(InputTooLong, match="input 1 has 6 tokens"):
            await embed(model, ["a b c d e", "a b c d e f"])
        assert not provider.embed_calls
        assert len((await embed(model, ["a b c d e"])).vectors) == 1


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 60_000, b"\xff", b"null", b'{"embeddings":[{"values":[null]}]}']
)
async def test_a_broken_answer_fails(body: bytes) -> None:
    async with (
        provider_server(always=Fault(body=body)) as provider,
        upstream_model(provider.url, **GEMINI) as model,
    ):
        with pytest.raises(InferenceFailed):
            await embed(model, ["one"])


async def test_one_vector_for_all_inputs_is_refused() -> None:
    body = b'{"embeddings":[{"values":[1,0,0,0,0,0,0,0]}],"usageMetadata":{"promptTokenCount":2}}'
    async with (
        provider_server(always=Fault(body=body)) as provider,
        upstream_model(provider.url, **GEMINI) as model,
    ):
        with pytest.raises(InferenceFailed, match="Nothing was charged"):
            await embed(model, ["one", "two"])


async def test_a_wrong_key_is_the_operators_matter_although_google_answers_400() -> None:
    async with provider_server() as provider, upstream_model(provider.url, key="wrong", **GEMINI) as model:
        with pytest.raises(UpstreamUnavailable, match="operator"):
            await embed(model, ["one"])


async def test_a_bad_input_is_the_callers() -> None:
    fault = Fault(400, body=b'{"error":{"status":"INVALID_ARGUMENT","message":"empty Part"}}')
    async with provider_server(always=fault) as provider, upstream_model(provider.url, **GEMINI) as model:
        with pytest.raises(InvalidRequest):
            await embed(model, ["one"])


async def test_googles_retry_delay_is_passed_on() -> None:
    body = b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"33.5s"}]}}'
    async with provider_server(always=Fault(429, body=body)) as provider:
        async with upstream_model(provider.url, **GEMINI) as model:
            with pytest.raises(AtCapacity) as caught:
                await embed(model, ["one"])
        assert caught.value.retry_after_s == 34
        assert len(provider.seen) == 1
