"""Upstreams that fail: what is tried again, what the caller is told, and that nothing leaks or is charged."""

import asyncio
import base64
import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.integration.upstreams.making import THREADS, embed, spec_of, upstream_model
from tests.integration.upstreams.provider_server import (
    KEY,
    NATIVE_DIMS,
    Fault,
    ProviderServer,
    error,
    provider_server,
    vector_of,
)

from vectoll.adapters.upstreams import UpstreamModel
from vectoll.adapters.upstreams.provider import Answer
from vectoll.adapters.upstreams.transport import MAX_SPARE_RETRIES
from vectoll.adapters.upstreams.vectors import to_vectors
from vectoll.core.gate import FairGate
from vectoll.core.reading import Readers
from vectoll.domain.embedding import Encoding
from vectoll.domain.errors import (
    AtCapacity,
    InferenceFailed,
    InputTooLong,
    InvalidRequest,
    UpstreamUnavailable,
    VectollError,
)
from vectoll.domain.identity import NOBODY, Caller
from vectoll.ports.model import BilledUsage

SECRET_TEXT = "the callers secret text"


def answer(*embeddings: Any, usage: Any = None) -> Fault:
    """Status 200 with these embeddings."""
    tree = {"data": [{"embedding": e} for e in embeddings], "usage": usage or {"prompt_tokens": 4}}
    return Fault(body=json.dumps(tree).encode())


def packed(values: Any) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


GOOD = vector_of("x").tolist()


async def failure_of(provider: ProviderServer, *others: str, **how: Any) -> VectollError:
    async with upstream_model(provider.url, *others, **how) as model:
        encodings = await model.tokenize([SECRET_TEXT])
        with pytest.raises(VectollError) as caught:
            await model.embed(encodings, dimensions=None, caller=NOBODY)
    assert SECRET_TEXT not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


TRANSIENT = {
    "429": error(429, "rate_limit_exceeded"),
    "429 with retry-after": error(429, "rate_limit_exceeded", **{"retry-after": "0"}),
    "500": error(500, "server_error"),
    "502 with HTML": Fault(502, body=b"<html>bad gateway</html>"),
    "503": Fault(503, body=b""),
    "408": Fault(408, body=b""),
    "424 of TEI": error(424, "backend", "Inference failed"),
    "cut before the request is read": Fault(refuse=True),
    "cut in the middle of the body": Fault(cut_at=20),
    "cut after the header": Fault(cut_at=0),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
async def test_what_passes_is_tried_again(fault: Fault) -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        provider.faults.extend([fault, fault])
        result = await embed(model, ["x"])
    assert bytes(result.vectors[0]) == vector_of("x").tobytes()


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
async def test_what_does_not_pass_is_tried_four_times(fault: Fault) -> None:
    async with provider_server(always=fault) as provider:
        failure = await failure_of(provider)
        assert provider.connections <= 4
        assert len(provider.seen) in (0, 4)
    assert isinstance(failure, AtCapacity if fault.status == 429 else UpstreamUnavailable)


async def test_a_provider_that_is_down_is_not_asked_more_than_the_callers_ask() -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        provider.always = Fault(500, body=b"")
        await asyncio.gather(*(embed(model, ["x"]) for _ in range(200)), return_exceptions=True)
        assert len(provider.seen) == 200 + MAX_SPARE_RETRIES
        provider.faults.extend([answer(GOOD), Fault(500, body=b""), answer(GOOD)])
        for _ in range(2):
            await embed(model, ["x"])
    assert len(provider.seen) == 200 + MAX_SPARE_RETRIES + 3


BROKEN = {
    "not JSON": Fault(body=b"{"),
    "not UTF-8": Fault(body=b"\xff\xfe"),
    "nested without end": Fault(body=b'{"x":' + b"[" * 60_000),
    "no embeddings object": Fault(body=b"[]"),
    "an error with status 200": error(200, "server_error"),
    "too few vectors": answer(),
    "too many vectors": answer(GOOD, GOOD),
    "too short": answer(GOOD[:-1]),
    "too long": answer([*GOOD, 0.5]),
    "empty": answer([]),
    "null": answer([None] * NATIVE_DIMS),
    "NaN in base64": answer(packed([float("nan")] * NATIVE_DIMS)),
    "infinity in base64": answer(packed([float("inf")] * NATIVE_DIMS)),
    "beyond float32": answer([1e300] * NATIVE_DIMS),
    "zeros": answer([0.0] * NATIVE_DIMS),
    "not base64": answer("@@@@"),
    "bytes of half a float": answer(base64.b64encode(b"\0" * (4 * NATIVE_DIMS - 1)).decode()),
    "numbered twice": Fault(
        body=json.dumps({"data": [{"embedding": GOOD, "index": 1}], "usage": {"prompt_tokens": 1}}).encode()
    ),
    "far larger than its vectors": Fault(body=(answer(GOOD).body or b"") + b" " * 2_000_000),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_a_broken_answer_fails_and_is_not_bought_twice(fault: Fault) -> None:
    async with provider_server(always=fault) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, InferenceFailed)
    assert len(provider.seen) == 1


async def test_a_nan_literal_is_no_number() -> None:
    body = (
        b'{"data":[{"embedding":[' + b",".join([b"NaN"] * NATIVE_DIMS) + b']}],"usage":{"prompt_tokens":1}}'
    )
    async with provider_server(always=Fault(body=body)) as provider:
        assert isinstance(await failure_of(provider), InferenceFailed)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": None},
        {"prompt_tokens": 0},
        {"prompt_tokens": -3},
        {"prompt_tokens": "4"},
        {"prompt_tokens": True},
        {"prompt_tokens": 2.5},
    ],
)
async def test_usage_that_cannot_be_true_fails_closed(usage: dict[str, Any]) -> None:
    tree = {"data": [{"embedding": GOOD}], "usage": usage}
    async with provider_server(always=Fault(body=json.dumps(tree).encode())) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, UpstreamUnavailable)
    assert "tokens" in str(failure)


@pytest.mark.parametrize("usage", [{"total_tokens": 4}, {"prompt_tokens": 0, "total_tokens": 4}])
async def test_a_server_that_names_only_the_total_has_said_it(usage: dict[str, Any]) -> None:
    tree = {"data": [{"embedding": GOOD}], "usage": usage}
    async with (
        provider_server(always=Fault(body=json.dumps(tree).encode())) as provider,
        upstream_model(provider.url) as model,
    ):
        assert (await embed(model, ["x"])).usage.prompt_tokens == 4


async def test_missing_usage_fails_closed() -> None:
    async with provider_server(with_usage=False) as provider:
        assert isinstance(await failure_of(provider), UpstreamUnavailable)


OPERATORS_FAULT = {
    "401": error(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"),
    "403": error(403, "unsupported_country_region_territory"),
    "404": error(404, "model_not_found"),
    "400 model": error(400, "model_not_found"),
    "no quota": error(429, "insufficient_quota"),
    "redirect": Fault(307, {"location": "http://elsewhere.invalid/"}, b""),
    "batch size": error(413, "Validation", "batch size 33 > maximum allowed batch size 32"),
}


@pytest.mark.parametrize("fault", OPERATORS_FAULT.values(), ids=OPERATORS_FAULT)
async def test_a_refusal_of_us_is_the_operators_matter(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with provider_server(always=fault) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, UpstreamUnavailable)
    assert "operator" in str(failure)
    assert len(provider.seen) == 1
    assert [
        r for r in caplog.records if r.levelno >= logging.ERROR and "upstream_refuses_us" in r.getMessage()
    ]
    assert KEY not in caplog.text
    assert SECRET_TEXT not in caplog.text


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_of_the_input_is_the_callers_matter_and_the_body_stays_here(status: int) -> None:
    async with provider_server(always=error(status, "bad", f"{SECRET_TEXT} {KEY}")) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, InvalidRequest)
    assert failure.issues[0].path == ("input",)
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, InvalidRequest), (401, UpstreamUnavailable), (429, AtCapacity), (502, UpstreamUnavailable)],
)
async def test_an_error_page_of_any_length_means_what_its_status_says(
    status: int, expected: type[VectollError]
) -> None:
    async with provider_server(always=Fault(status, body=b"<p>" * 100_000)) as provider:
        assert isinstance(await failure_of(provider), expected)
    assert len(provider.seen) == (4 if status in (429, 502) else 1)


@pytest.mark.parametrize(
    "body", [b"", b"[" * 60_000, b"\xff", b"null", b'"text"', b'{"error":null}', b"{" * 9]
)
async def test_an_error_body_of_any_kind_is_read(body: bytes) -> None:
    async with provider_server(always=Fault(400, body=body)) as provider:
        assert isinstance(await failure_of(provider), InvalidRequest)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 77 tokens, however you requested 88 tokens (88 in your prompt; 0 ...)",
        "This model's maximum context length is 77 tokens. However, your request has 88 input tokens.",
        "Input validation error: `inputs` must have less than 77 tokens. Given: 88",
    ],
)
async def test_a_context_that_is_too_small_is_said_in_the_words_that_clients_parse(message: str) -> None:
    async with provider_server(always=error(400, "bad", message)) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, InputTooLong)
    assert "maximum context length is 77 tokens, but input 0 has 88 tokens" in str(failure)


@pytest.mark.parametrize(
    ("status", "message", "limit"),
    [
        (400, "The decoder prompt (length 88) is longer than the maximum model length of 77. Make sure", 77),
        (400, "the request exceeds the available context size. try increasing the context size", 100),
        (500, "input is too large to process. increase the physical batch size", 100),
        (
            500,
            "input (88 tokens) is too large to process. increase the physical batch size (current batch size: 77)",
            77,
        ),
    ],
    ids=["vLLM", "llama.cpp", "llama.cpp of 2024", "llama.cpp of 2025"],
)
async def test_a_context_that_is_too_small_is_the_inputs_fault_in_every_servers_words(
    status: int, message: str, limit: int
) -> None:
    async with provider_server(always=error(status, "bad", message)) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, InvalidRequest)
    assert f"maximum context length is {limit} tokens" in str(failure)
    assert len(provider.seen) == 1


async def test_a_context_that_is_too_small_for_one_of_several_names_the_limit() -> None:
    async with (
        provider_server(always=error(400, "bad", "the input length exceeds the context length")) as provider,
        upstream_model(provider.url) as model,
    ):
        with pytest.raises(InvalidRequest, match="This model's maximum context length is 100 tokens"):
            await embed(model, ["a", "b"])


async def test_a_provider_that_never_answers_costs_bounded_time() -> None:
    async with provider_server(always=Fault(hang=True)) as provider:
        async with asyncio.timeout(3):
            failure = await failure_of(provider, timeout_s=0.2)
        assert isinstance(failure, UpstreamUnavailable)
        assert len(provider.seen) == 2, "half the time each"


async def test_who_waits_too_long_for_a_place_is_refused_while_there_is_time_for_a_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vectoll.adapters.upstreams.build.MAX_CALLS", 1)
    async with (
        provider_server(always=Fault(hang=True)) as provider,
        upstream_model(provider.url, timeout_s=0.4) as model,
    ):
        first = asyncio.create_task(embed(model, ["x"]))
        await provider.active_calls(1)
        with pytest.raises(AtCapacity):
            await embed(model, ["y"], caller=Caller.keyless("b"))
        with pytest.raises(UpstreamUnavailable):
            await first
    assert all(seen.body["input"] == ["x"] for seen in provider.seen)


class PatientProvider:
    """Answers once it may; notes until when it has time."""

    max_batch_tokens = 1000
    cuts_silently = False

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.deadlines: list[float] = []

    async def embed(
        self, _part: Sequence[Encoding], _dimensions: int | None, _left: asyncio.Event, deadline: float
    ) -> Answer:
        self.deadlines.append(deadline)
        await self.may_answer.wait()
        return Answer(to_vectors([GOOD], NATIVE_DIMS, NATIVE_DIMS), 1)

    async def count(self, _part: Sequence[Encoding], _deadline: float) -> int | None:
        return None

    async def close(self) -> None:
        pass


async def test_the_wait_for_a_place_is_part_of_a_calls_time() -> None:
    provider, spec = PatientProvider(), spec_of("http://unused")
    gate, readers = FairGate(1, 10, 60.0), Readers(THREADS, 1, 60.0)
    assert spec.upstream is not None
    model = UpstreamModel(spec, spec.upstream, provider, gate, readers, None, None)
    requests = [asyncio.create_task(embed(model, ["x"])) for _ in range(2)]
    for _ in range(9):  # the one is sent, the other waits
        await asyncio.sleep(0)
    both_wait_since = asyncio.get_running_loop().time()
    provider.may_answer.set()
    await asyncio.gather(*requests)
    first, second = provider.deadlines
    assert first <= second <= both_wait_since + spec.upstream.timeout_s


async def test_a_provider_that_hangs_takes_the_time_of_one_request_and_is_back_when_it_is() -> None:
    back = asyncio.Event()
    async with provider_server() as provider, upstream_model(provider.url, timeout_s=60.0) as model:
        provider.faults.extend([Fault(refuse=True)] * 4)
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["x"])
        provider.faults.extend([Fault(until=back)] * 200)
        requests = [
            asyncio.create_task(embed(model, ["x"], caller=Caller.keyless(str(i)))) for i in range(200)
        ]
        done, _ = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        for failed in done:
            assert isinstance(failed.exception(), UpstreamUnavailable)
        assert len(provider.seen) == 1
        back.set()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert len([r for r in results if not isinstance(r, UpstreamUnavailable)]) >= 1
        assert len((await embed(model, ["x"])).vectors) == 1


async def test_a_request_in_parts_finds_out_too_that_a_silent_provider_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vectoll.adapters.upstreams.endpoints.MAX_TRIAL_WAIT_S", 0.01)
    slow = asyncio.Event()
    async with provider_server() as provider, upstream_model(provider.url, max_batch_inputs=1) as model:
        provider.faults.extend([Fault(refuse=True)] * 4)
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["x"])
        provider.faults.append(Fault(until=slow))
        request = asyncio.create_task(embed(model, ["x"] * 9))
        await provider.active_calls(1)
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["another caller's"])
        slow.set()
        assert len((await request).vectors) == 9


async def test_a_slow_answer_is_tried_again() -> None:
    async with provider_server() as provider, upstream_model(provider.url, timeout_s=0.6) as model:
        provider.faults.append(Fault(hang=True))
        assert len((await embed(model, ["x"])).vectors) == 1


async def test_a_retry_after_beyond_the_time_left_is_passed_on_at_once() -> None:
    async with provider_server(always=error(429, "rate_limit", **{"retry-after": "77"})) as provider:
        failure = await failure_of(provider)
    assert isinstance(failure, AtCapacity)
    assert failure.retry_after_s == 77
    assert len(provider.seen) == 1


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_a_provider_that_has_said_when_is_not_asked_sooner_by_anybody(status: int) -> None:
    async with provider_server() as provider, upstream_model(provider.url) as model:
        provider.faults.append(error(status, "overloaded", **{"retry-after": "77"}))
        for _ in range(5):
            with pytest.raises(AtCapacity) as caught:
                await embed(model, ["x"])
            assert 50 < (caught.value.retry_after_s or 0) <= 77
        assert len(provider.seen) == 1


async def test_a_retry_after_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    async with provider_server() as provider, upstream_model(provider.url) as model:
        provider.faults.append(error(429, "rate_limit", **{"retry-after-ms": "150"}))
        started = loop.time()
        await embed(model, ["x"])
    assert loop.time() - started >= 0.15


async def test_a_part_that_fails_fails_the_request_and_stops_the_others() -> None:
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_batch_inputs=1) as model,
    ):
        hang = Fault(hang=True)
        provider.faults.extend([hang, hang, error(401, "invalid_api_key"), hang])
        with pytest.raises(UpstreamUnavailable):
            await embed(model, ["x"] * 40)
        await asyncio.wait_for(model.close(), 1)
    assert len(provider.seen) == 4


async def test_a_part_that_is_refused_lets_those_that_were_sent_end_and_sends_no_more() -> None:
    gate = asyncio.Event()
    async with (
        provider_server() as provider,
        upstream_model(provider.url, max_batch_inputs=1) as model,
    ):
        slow = Fault(until=gate)
        provider.faults.extend([slow, slow, error(400, "bad"), slow])
        request = asyncio.create_task(embed(model, ["x"] * 40))
        await provider.until(lambda: provider.answered == 1)
        gate.set()
        with pytest.raises(InvalidRequest) as caught:
            await request
    assert isinstance(billed := caught.value.__cause__, BilledUsage)
    assert (billed.usage.prompt_tokens, billed.is_whole) == (3, False)
    assert len(provider.seen) == 4


async def test_a_cancelled_request_keeps_its_place_until_its_call_ends_and_the_next_one_works() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, upstream_model(provider.url) as model:
        request = asyncio.create_task(embed(model, ["x"]))
        await provider.active_calls(1)
        request.cancel()
        closing = asyncio.create_task(model.close(5.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), 0.05)
        gate.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await request
        assert isinstance(billed := caught.value.__cause__, BilledUsage)
        assert (billed.usage.prompt_tokens, billed.is_whole) == (1, True)
        await closing
    async with provider_server() as provider, upstream_model(provider.url) as model:
        assert len((await embed(model, ["x"])).vectors) == 1


@pytest.mark.parametrize("retry_after", ["0", "3"])
async def test_what_fails_after_its_caller_has_left_is_not_sent_again(retry_after: str) -> None:
    gate = asyncio.Event()
    async with provider_server() as provider, upstream_model(provider.url) as model:
        provider.faults.append(Fault(503, {"retry-after": retry_after}, b"", until=gate))
        request = asyncio.create_task(embed(model, ["x"]))
        await provider.active_calls(1)
        request.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError) as caught:
            await request
    assert caught.value.__cause__ is None
    assert len(provider.seen) == 1


async def test_who_leaves_between_two_attempts_is_let_go_at_once() -> None:
    async with provider_server() as provider, upstream_model(provider.url, timeout_s=60.0) as model:
        provider.faults.append(error(503, "overloaded", **{"retry-after": "30"}))
        request = asyncio.create_task(embed(model, ["x"]))
        await provider.until(lambda: provider.answered == 1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(request, 5)
    assert len(provider.seen) == 1


async def test_closing_cuts_what_is_in_flight_and_every_waiter_is_answered() -> None:
    async with provider_server(always=Fault(hang=True)) as provider, upstream_model(provider.url) as model:
        requests = [asyncio.create_task(embed(model, ["x"])) for _ in range(3)]
        await provider.active_calls(3)
        await model.close(0.01)
        results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(r) for r in results] == [UpstreamUnavailable] * 3


async def test_closing_ends_the_pause_of_who_waits_to_ask_again() -> None:
    async with provider_server() as provider, upstream_model(provider.url, timeout_s=60.0) as model:
        provider.faults.append(error(429, "rate_limit", **{"retry-after": "30"}))
        request = asyncio.create_task(embed(model, ["x"]))
        await provider.until(lambda: provider.answered == 1)
        await model.close(0.01)
        with pytest.raises((AtCapacity, UpstreamUnavailable)):
            await asyncio.wait_for(request, 5)
    assert len(provider.seen) == 1


async def test_closing_lets_what_is_in_flight_finish() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, upstream_model(provider.url) as model:
        request = asyncio.create_task(embed(model, ["x"]))
        await provider.active_calls(1)
        closing = asyncio.create_task(model.close(5.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(closing), 0.05)
        gate.set()
        assert len((await request).vectors) == 1
        await closing
