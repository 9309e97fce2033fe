"""An OpenAI-compatible upstream that does as it should."""

import asyncio
import json

import numpy as np
import pytest
from tests.integration.upstreams.making import embed, upstream_model
from tests.integration.upstreams.provider_server import (
    KEY,
    NATIVE_DIMS,
    Fault,
    count_tokens,
    provider_server,
    vector_of,
)

from vectoll.core.tracing import Tracer
from vectoll.domain.catalog import TokenIdPolicy, UsageMissing
from vectoll.domain.errors import InputTooLong, InvalidRequest
from vectoll.domain.identity import Caller


@pytest.mark.parametrize(
    "options", [{}, {"honours_base64": False}, {"honours_dimensions": False}, {"shuffles": True}]
)
@pytest.mark.parametrize("dimensions", [None, NATIVE_DIMS, 5])
async def test_every_input_gets_its_own_vector(options: dict[str, bool], dimensions: int | None) -> None:
    texts = ["one", "two words", "three small words"]
    async with provider_server(**options) as provider, upstream_model(provider.url) as model:
        result = await embed(model, texts, dimensions)
    assert result.dims == (dimensions or NATIVE_DIMS)
    assert result.usage.prompt_tokens == 6
    for text, vector in zip(texts, result.vectors, strict=True):
        assert (vector.format, vector.readonly, vector.c_contiguous) == ("f", True, True)
        assert np.allclose(np.asarray(vector), vector_of(text, result.dims), atol=1e-6)


async def test_an_indented_answer_with_numbers_in_full_is_read() -> None:
    dims = 3072
    numbers = [-0.0023064255341887474 / (i + 1) for i in range(dims)]
    tree = {
        "data": [{"index": i, "embedding": numbers} for i in range(20)],
        "usage": {"prompt_tokens": 20},
    }
    indented = Fault(body=json.dumps(tree, indent=4).encode())
    async with (
        provider_server(always=indented) as provider,
        upstream_model(provider.url, dims=dims) as model,
    ):
        assert len((await embed(model, ["x"] * 20)).vectors) == 20


async def test_base64_vectors_are_the_providers_bit_for_bit() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        result = await embed(model, ["one"])
    assert bytes(result.vectors[0]) == vector_of("one").tobytes()


async def test_the_request_is_what_openai_documents_with_our_key_and_nothing_of_the_callers() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        await embed(model, ["one"], 4, caller=Caller.keyless("vtk_callers-own-key"))
        await embed(model, ["one"])
    first, second = provider.seen
    assert first.path == "/v1/embeddings"
    assert first.body == {
        "model": "their-name",
        "input": ["one"],
        "encoding_format": "base64",
        "dimensions": 4,
    }
    assert "dimensions" not in second.body
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert set(first.headers) <= {
        "host", "authorization", "content-type", "content-length", "user-agent", "accept", "accept-encoding",
    }  # fmt: skip
    assert "callers-own" not in str(first)


async def test_with_tracing_on_the_trace_goes_along_and_nothing_that_the_caller_wrote_into_it() -> None:
    class Sink:
        def is_sampled(self, trace_id: int, parent: object) -> bool:
            return True

        def export(self, spans: object) -> None:
            pass

    caller = {
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        "tracestate": "callers=secret",
        "baggage": "x=y",
    }
    async with provider_server() as provider, upstream_model(provider.url) as model:
        with Tracer(Sink()).trace("request", caller):
            await embed(model, ["one"])
    headers = provider.seen[0].headers
    assert headers["traceparent"].startswith(f"00-{'ab' * 16}-")
    assert "tracestate" not in headers
    assert "baggage" not in headers


async def test_without_a_key_none_is_sent() -> None:
    async with provider_server() as provider, upstream_model(provider.url, api_key_env=None) as model:
        await embed(model, ["one"])
    assert "authorization" not in provider.seen[0].headers


async def test_connections_are_kept() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        for _ in range(5):
            await embed(model, ["one"])
    assert provider.connections == 1


async def test_a_large_request_is_split_and_put_together_in_order_whichever_part_comes_last() -> None:
    texts = [f"text {i}" for i in range(50)]
    others_are_done = asyncio.Event()
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_batch_inputs=8) as model,
    ):
        provider.faults.append(Fault(until=others_are_done))
        request = asyncio.create_task(embed(model, texts))
        await provider.until(lambda: provider.answered == 6)
        others_are_done.set()
        result = await request
    assert sorted(len(s.body["input"]) for s in provider.seen) == [2, 8, 8, 8, 8, 8, 8]
    assert [bytes(v) for v in result.vectors] == [vector_of(text).tobytes() for text in texts]
    assert result.usage.prompt_tokens == 100


async def test_the_parts_of_one_request_are_bought_a_few_at_a_time() -> None:
    async with provider_server(gate=asyncio.Event()) as provider:
        async with upstream_model(provider.url, max_batch_inputs=1) as model:
            request = asyncio.create_task(embed(model, ["x"] * 12))
            await provider.active_calls(4)
            assert provider.gate is not None
            provider.gate.set()
            await request
        assert provider.peak_active == 4


async def test_calls_stay_below_openais_limit_of_300_000_tokens() -> None:
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_tokens=8192, tokenizer="cl100k_base") as model,
    ):
        result = await embed(model, ["a " * 8000] * 80)
    tokens = [sum(count_tokens(text) for text in s.body["input"]) for s in provider.seen]
    assert len(tokens) == 3
    assert max(tokens) <= 300_000
    assert len(result.vectors) == 80


async def test_a_tokenizer_makes_the_quote_exact_and_refuses_what_is_too_long_here() -> None:
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_tokens=4, tokenizer="cl100k_base") as model,
    ):
        encodings = await model.tokenize(["hello world", "tiktoken"])
        assert [e.token_count for e in encodings] == [2, 3]
        with pytest.raises(
            InputTooLong, match="maximum context length is 4 tokens, but input 1 has 6 tokens"
        ):
            await model.tokenize(["hello", "tiktoken is great!"])
    assert not provider.seen


@pytest.mark.parametrize("tokenizer", ["cl100k_base", None])
async def test_a_text_that_is_far_too_large_is_neither_counted_nor_sent(tokenizer: str | None) -> None:
    most = 1024 * 1024 + 256 * 4
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_tokens=4, tokenizer=tokenizer) as model,
    ):
        with pytest.raises(
            InvalidRequest, match=f"input 1 has {most + 1} characters, and at most {most} are read"
        ):
            await model.tokenize(["fine", "x" * (most + 1)])
    assert not provider.seen


async def test_without_a_tokenizer_the_quote_is_a_bound_that_never_exceeds_the_context() -> None:
    async with provider_server() as provider, upstream_model(provider.url, max_tokens=40) as model:
        assert [e.token_count for e in await model.tokenize(["hello", "x" * 1000])] == [21, 40]


async def test_the_charge_is_the_providers_and_never_above_the_quote() -> None:
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_tokens=3) as model,
    ):
        result = await embed(model, ["a b c d e f"])
    assert count_tokens("a b c d e f") == 6
    assert result.usage.prompt_tokens == 3


async def test_missing_usage_is_counted_here_when_set_so() -> None:
    how = {"tokenizer": "cl100k_base", "usage_missing": UsageMissing.COUNT}
    async with provider_server(with_usage=False) as provider, upstream_model(provider.url, **how) as model:
        result = await embed(model, ["hello world", "tiktoken is great!"])
    assert result.usage.prompt_tokens == 8


async def test_native_token_ids_go_out_as_they_came() -> None:
    how = {"tokenizer": "cl100k_base", "token_ids": TokenIdPolicy.NATIVE}
    async with provider_server() as provider, upstream_model(provider.url, **how) as model:
        result = await embed(model, [[1, 2, 3], [4]])
        with pytest.raises(InvalidRequest, match="input 1 has a token id outside"):
            await model.tokenize([[1], [100_256]])
        with pytest.raises(InputTooLong):
            await model.tokenize([[1] * 101])
    assert provider.seen[0].body["input"] == [[1, 2, 3], [4]]
    assert result.usage.prompt_tokens == 4
    assert [bytes(v) for v in result.vectors] == [vector_of([1, 2, 3]).tobytes(), vector_of([4]).tobytes()]


async def test_foreign_token_ids_give_the_vectors_of_their_text_prompt_included() -> None:
    how = {"token_ids": TokenIdPolicy.CL100K_BASE, "prompt": "query: "}
    async with provider_server() as provider, upstream_model(provider.url, **how) as model:
        from_ids = await embed(model, [[15339, 1917]])
        from_text = await embed(model, ["hello world"])
    assert [s.body["input"] for s in provider.seen] == [["query: hello world"]] * 2
    assert bytes(from_ids.vectors[0]) == bytes(from_text.vectors[0])


async def test_token_ids_are_refused_when_set_so() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        with pytest.raises(InvalidRequest, match="does not take token ids"):
            await model.tokenize([[1]])


async def test_a_lone_surrogate_is_refused_with_its_index() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        with pytest.raises(InvalidRequest, match=r"input\[1\]: is not valid Unicode"):
            await model.tokenize(["fine", "\ud800"])


async def test_a_bulk_caller_does_not_keep_another_waiting() -> None:
    gate = asyncio.Event()
    async with (
        provider_server(gate=gate) as provider,
        upstream_model(provider.url, max_batch_inputs=1) as model,
    ):
        bulk = [
            asyncio.create_task(embed(model, ["bulk"] * 4, caller=Caller.keyless("bulk"))) for _ in range(40)
        ]
        await provider.active_calls(64)
        single = asyncio.create_task(embed(model, ["single"], caller=Caller.keyless("other")))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(single, *bulk)
    position = next(i for i, s in enumerate(provider.seen) if s.body["input"] == ["single"])
    assert position <= 66, "one waiter of each caller in turn"
