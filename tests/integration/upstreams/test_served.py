"""Upstreams and foreign token ids through the composition root and the whole flow: what is held, charged, offline."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from msgspec import structs
from tests.integration.upstreams.provider_server import (
    KEY,
    NATIVE_DIMS,
    Fault,
    error,
    provider_server,
    vector_of,
)
from tests.minilm import PACKAGE

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.token_ids import BytePairTokenizer, load_vocabulary
from vectoll.core.admission import Admission
from vectoll.core.billing import Billing
from vectoll.core.embed import EmbedResult, EmbedService
from vectoll.domain.catalog import ModelKind
from vectoll.domain.embedding import EmbeddingRequest
from vectoll.domain.errors import (
    InputTooLong,
    InsufficientBalance,
    InvalidRequest,
    ModelOffline,
    UpstreamUnavailable,
    VectollError,
)
from vectoll.domain.identity import NOBODY, Principal
from vectoll.domain.ids import AccountId, ModelId, RequestId, new_id
from vectoll.domain.ledger import Balance, Transfer, TransferCode, system_account
from vectoll.domain.money import Amount
from vectoll.loading import open_model, open_models
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import EngineSettings, LimitsSettings, ModelSettings, Settings

ACCOUNT = AccountId("acct_1")
UNITS = 1_000_000
"""Units per token of a model at $1 per million."""


class Caller:
    """Someone with an account, in front of a server with these models."""

    def __init__(self, service: EmbedService, store: MemoryStore) -> None:
        self._service = service
        self._admission = Admission(MemoryRateLimiter(), LimitsSettings())
        self._ledger = store.ledger

    async def credit(self, tokens: int) -> None:
        now = datetime.now(UTC)
        house = system_account("cash", now)
        transfer = Transfer(
            id=new_id("t"),  # type: ignore[arg-type]
            debit=house,
            credit=ACCOUNT,
            amount=Amount(tokens * UNITS),
            code=TransferCode.CREDIT,
            created_at=now,
        )
        await self._ledger.post(transfer)

    async def embed(self, model: str, inputs: Sequence[str] | Sequence[Sequence[int]]) -> EmbedResult:
        request = EmbeddingRequest(ModelId(model), inputs)
        with await self._admission.admit(NOBODY) as permit:
            return await self._service.embed(Principal(ACCOUNT), permit, request, RequestId(new_id("req")))

    async def balance(self) -> Balance:
        return await self._ledger.balance(ACCOUNT)


@asynccontextmanager
async def serving(*models: ModelSettings) -> AsyncIterator[Caller]:
    settings = Settings(models=(*models, ModelSettings(id="all-MiniLM-L6-v2", enabled=False)))
    store = MemoryStore()
    async with open_models(settings, NoMetrics()) as registry:
        yield Caller(EmbedService(registry, Billing(store.ledger, NoMetrics()), NoMetrics()), store)


def bought(url: str, model_id: str = "bought") -> ModelSettings:
    return ModelSettings(
        id=model_id,
        kind=ModelKind.OPENAI,
        base_url=url,
        api_key_env="PROVIDER_KEY",
        dims=NATIVE_DIMS,
        max_tokens=100,
        price_usd_per_million="1",
    )


def in_parts(url: str) -> ModelSettings:
    """One call for each input."""
    return structs.replace(bought(url), max_batch_inputs=1)


@pytest.fixture(autouse=True)
def provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


async def test_the_bound_is_held_and_the_providers_usage_is_charged() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, serving(bought(provider.url)) as caller:
        await caller.credit(100)
        request = asyncio.create_task(caller.embed("bought", ["two words"]))
        await provider.active_calls(1)
        assert (await caller.balance()).held == 25 * UNITS, "9 bytes and 16 for special tokens"
        gate.set()
        result = await request
        assert result.charge.amount == 2 * UNITS
        assert bytes(result.embeddings.vectors[0]) == vector_of("two words").tobytes()
        assert await caller.balance() == Balance(Amount(98 * UNITS), Amount(0))


@pytest.mark.parametrize(
    "fault", [Fault(500, body=b""), Fault(body=b"{"), error(401, "invalid_api_key"), error(400, "bad")]
)
async def test_what_fails_is_not_charged_and_its_hold_is_released(fault: Fault) -> None:
    async with provider_server(always=fault) as provider, serving(bought(provider.url)) as caller:
        await caller.credit(100)
        with pytest.raises(VectollError):
            await caller.embed("bought", ["text"])
        assert await caller.balance() == Balance(Amount(100 * UNITS), Amount(0))


async def test_who_leaves_pays_for_what_was_sent_and_it_stays_held_until_then() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, serving(bought(provider.url)) as caller:
        await caller.credit(100)
        request = asyncio.create_task(caller.embed("bought", ["two words"]))
        await provider.active_calls(1)
        for _ in range(3):
            request.cancel()
            await asyncio.sleep(0)
        assert await caller.balance() == Balance(Amount(100 * UNITS), Amount(25 * UNITS))
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert await caller.balance() == Balance(Amount(98 * UNITS), Amount(0))


async def test_who_leaves_before_the_first_call_is_sent_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectoll.adapters.upstreams.build.MAX_CALLS", 1)
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, serving(bought(provider.url)) as caller:
        await caller.credit(100)
        first = asyncio.create_task(caller.embed("bought", ["text"]))
        await provider.active_calls(1)
        second = asyncio.create_task(caller.embed("bought", ["text"]))
        while (await caller.balance()).held < 2 * 20 * UNITS:  # noqa: ASYNC110 - a hold tells nobody
            await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        await first
        assert await caller.balance() == Balance(Amount(99 * UNITS), Amount(0))
    assert len(provider.seen) == 1


async def test_who_leaves_pays_for_the_calls_that_were_sent_and_no_more_are_sent() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, serving(in_parts(provider.url)) as caller:
        await caller.credit(1000)
        request = asyncio.create_task(caller.embed("bought", ["text"] * 9))
        await provider.active_calls(4)
        request.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert await caller.balance() == Balance(Amount(996 * UNITS), Amount(0))
    assert len(provider.seen) == 4


async def test_who_sends_what_the_provider_refuses_pays_for_the_rest_and_is_told() -> None:
    gate = asyncio.Event()
    async with provider_server(gate=gate) as provider, serving(in_parts(provider.url)) as caller:
        await caller.credit(1000)
        provider.faults.append(error(400, "bad"))
        request = asyncio.create_task(caller.embed("bought", ["text"] * 4))
        await provider.until(lambda: provider.answered == 1)
        gate.set()
        with pytest.raises(InvalidRequest, match="3 tokens of other inputs were embedded") as caught:
            await request
        assert str(caught.value) == f"input: {caught.value.issues[0].message}"
        assert await caller.balance() == Balance(Amount(997 * UNITS), Amount(0))


@pytest.mark.parametrize("fault", [Fault(body=b"{"), error(401, "invalid_api_key")])
async def test_a_failure_that_is_not_the_callers_costs_nothing_whatever_was_bought(fault: Fault) -> None:
    late = asyncio.Event()
    async with provider_server() as provider, serving(in_parts(provider.url)) as caller:
        await caller.credit(1000)
        provider.faults.append(replace(fault, until=late))
        request = asyncio.create_task(caller.embed("bought", ["text"] * 4))
        await provider.until(lambda: provider.answered == 3)
        late.set()
        with pytest.raises(VectollError):
            await request
        assert await caller.balance() == Balance(Amount(1000 * UNITS), Amount(0))


async def test_without_credit_nothing_is_bought() -> None:
    async with provider_server() as provider, serving(bought(provider.url)) as caller:
        with pytest.raises(InsufficientBalance):
            await caller.embed("bought", ["text"])
    assert not provider.seen


async def test_one_models_failure_leaves_the_others_serving() -> None:
    dead = bought("http://127.0.0.1:9", "dead")
    async with provider_server() as provider, serving(dead, bought(provider.url)) as caller:
        await caller.credit(100)
        with pytest.raises(UpstreamUnavailable):
            await caller.embed("dead", ["text"])
        assert (await caller.embed("bought", ["text"])).charge.tokens == 1


async def test_a_fresh_machine_says_why_each_model_is_offline() -> None:
    async with serving(ModelSettings(id="text-embedding-3-small")) as caller:
        with pytest.raises(ModelOffline, match="has not set the API key"):
            await caller.embed("text-embedding-3-small", ["text"])
        with pytest.raises(ModelOffline, match="has not switched"):
            await caller.embed("gemini-embedding-2-preview", ["text"])
        with pytest.raises(ModelOffline, match="text-embedding-bge-m3"):
            await caller.embed("text-embedding-ada-002", ["text"])


async def test_openais_own_models_are_quoted_to_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = Settings(models=(ModelSettings(id="text-embedding-3-small"),))
    async with open_model(settings, "text-embedding-3-small") as model:
        encodings = await model.tokenize(["tiktoken is great!", "hello world"])
        assert [e.token_count for e in encodings] == [6, 2]
        with pytest.raises(InputTooLong):
            await model.tokenize(["a " * 8192])


async def test_neither_key_nor_text_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "a callers secret text"
    async with (
        provider_server(always=error(500, "x", f"{KEY} {secret}")) as provider,
        serving(bought(provider.url)) as caller,
    ):
        await caller.credit(100)
        with pytest.raises(UpstreamUnavailable):
            await caller.embed("bought", [secret])
    assert "failed" in caplog.text
    assert KEY not in caplog.text
    assert secret not in caplog.text


async def test_langchains_token_ids_give_the_embedded_model_the_vectors_of_the_plain_strings() -> None:
    texts = ["The quick brown fox.", "hello world", "naïve café — 北京 👍🏽", "  two  spaces\n"]
    ids = [list(e.ids) for e in BytePairTokenizer(load_vocabulary("cl100k_base")).encode(texts)]
    async with open_model(Settings(), "all-MiniLM-L6-v2") as model:
        from_ids = await model.tokenize(ids)
        assert from_ids == await model.tokenize(texts)
        embedded = await model.embed(from_ids, dimensions=None, caller=NOBODY)
        plain = await model.embed(await model.tokenize(texts), dimensions=None, caller=NOBODY)
    assert [bytes(v) for v in embedded.vectors] == [bytes(v) for v in plain.vectors]


async def test_local_models_take_turns_within_the_memory_that_they_may_have() -> None:
    entries = tuple(
        ModelSettings(id=name, package=PACKAGE, load="first_use", dims=384) for name in ("a", "b")
    )
    settings = Settings(
        models=(*entries, ModelSettings(id="all-MiniLM-L6-v2", enabled=False)),
        engine=EngineSettings(memory_mib=100, streams=1),
    )
    store = MemoryStore()
    async with open_models(settings, NoMetrics()) as registry:
        caller = Caller(EmbedService(registry, Billing(store.ledger, NoMetrics()), NoMetrics()), store)
        await caller.credit(100)
        vectors = [(await caller.embed(name, ["text"])).embeddings.vectors[0] for name in ("a", "b", "a")]
    assert bytes(vectors[0]) == bytes(vectors[1]) == bytes(vectors[2])


async def test_weights_beyond_the_memory_are_offline_and_upstreams_serve_all_the_same() -> None:
    async with provider_server() as provider:
        settings = Settings(models=(bought(provider.url),), engine=EngineSettings(memory_mib=10))
        store = MemoryStore()
        async with open_models(settings, NoMetrics()) as registry:
            caller = Caller(EmbedService(registry, Billing(store.ledger, NoMetrics()), NoMetrics()), store)
            await caller.credit(100)
            with pytest.raises(ModelOffline, match="more memory"):
                await caller.embed("all-MiniLM-L6-v2", ["text"])
            assert (await caller.embed("bought", ["text"])).charge.tokens == 1
