"""The one flow: what is charged, and every way out that is not."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import pytest
from tests.ledger import FixedClock

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.admission import Admission, Permit
from vectoll.core.billing import Billing
from vectoll.core.embed import EmbedResult, EmbedService
from vectoll.core.models import ModelRegistry
from vectoll.core.repeats import MAX_REPEATS
from vectoll.domain.catalog import Catalog, ModelSource, ModelSpec, Pooling
from vectoll.domain.embedding import EmbeddingRequest, Embeddings, Encoding, Inputs, Usage
from vectoll.domain.errors import (
    IdempotencyConflict,
    IdempotencyKeySpent,
    InferenceFailed,
    InsufficientBalance,
    InvalidRequest,
    ModelNotPermitted,
    ModelOffline,
    RateLimited,
    UnknownModel,
    VectollError,
)
from vectoll.domain.identity import NOBODY, Caller, Principal
from vectoll.domain.ids import AccountId, ModelId, RequestId, new_id
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import Amount, Price
from vectoll.ports.metrics import NoMetrics
from vectoll.ports.model import BilledUsage
from vectoll.settings import LimitsSettings

ACCOUNT = AccountId("acct_1")
SPEC = ModelSpec(
    ModelId("m"),
    "M",
    ModelSource(),
    Pooling.MEAN,
    4,
    512,
    Price(10),
    matryoshka_dims=(2,),
    aliases=("alias",),
)


@dataclass
class FakeModel:
    """One token per character; waits at ``gate`` when there is one."""

    spec: ModelSpec
    error: BaseException | None = None
    gate: asyncio.Event | None = None
    embedded: int = 0
    started: asyncio.Event = field(default_factory=asyncio.Event)
    callers: list[Caller] = field(default_factory=list)

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        return [Encoding([1] * len(each)) for each in inputs]

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        self.embedded += 1
        self.started.set()
        self.callers.append(caller)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        vector = np.ones(dimensions or self.spec.dims, dtype=np.float32).data
        return Embeddings([vector] * len(encodings), 4, Usage(sum(e.token_count for e in encodings)))

    async def close(self, drain_s: float = 0.0) -> None:
        pass


class World:
    """A service over an in-memory ledger with 1000 units of credit: a hundred tokens."""

    def __init__(self, **limits: int) -> None:
        self.store = MemoryStore()
        self.model = FakeModel(SPEC)
        self.offline = replace(SPEC, id=ModelId("offline"), aliases=())
        self.pro = replace(SPEC, id=ModelId("pro"), aliases=(), pro_only=True)
        catalog = Catalog([SPEC, self.offline, self.pro])
        models = {SPEC.id: self.model, self.pro.id: FakeModel(self.pro)}
        self.registry = registry = ModelRegistry(catalog, models, {self.offline.id: "no weights here"})
        self.service = EmbedService(registry, Billing(self.store.ledger, NoMetrics()), NoMetrics())
        self.admission = Admission(MemoryRateLimiter(), LimitsSettings(**limits))
        self.principal = Principal(ACCOUNT)

    async def fund(self, amount: int = 1000) -> "World":
        now = datetime.now(UTC)
        credit = Transfer(
            new_id("crd"),  # type: ignore[arg-type]
            system_account("credit", now),
            ACCOUNT,
            Amount(amount),
            TransferCode.CREDIT,
            now,
        )
        await self.store.ledger.post(credit)
        return self

    async def embed(
        self, *texts: str, model: str = "m", key: str | None = None, **changes: object
    ) -> EmbedResult:
        request = EmbeddingRequest(ModelId(model), texts or ("hello",), **changes)  # type: ignore[arg-type]
        permit: Permit = await self.admission.admit(self.principal.caller)
        with permit:
            return await self.service.embed(self.principal, permit, request, RequestId(new_id("req")), key)

    async def money(self) -> tuple[int, int]:
        balance = await self.store.ledger.balance(ACCOUNT)
        return balance.balance, balance.held


async def test_answer_costs_its_tokens_exactly() -> None:
    world = await World().fund()
    result = await world.embed("hello", "you", model="alias")
    assert result.charge.amount == 80
    assert result.charge.tokens == 8
    assert result.model is SPEC
    assert await world.money() == (920, 0)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (UnknownModel, {"model": "nope"}),
        (ModelOffline, {"model": "offline"}),
        (ModelNotPermitted, {"model": "pro"}),
        (InvalidRequest, {"dimensions": 3}),
        (InvalidRequest, {"dimensions": 10**30}),
    ],
)
async def test_refused_request_costs_nothing(error: type[VectollError], options: dict[str, object]) -> None:
    world = await World().fund()
    with pytest.raises(error):
        await world.embed(**options)  # type: ignore[arg-type]
    assert world.model.embedded == 0
    assert await world.money() == (1000, 0)


async def test_unknown_model_is_told_which_can_be_used_now() -> None:
    with pytest.raises(UnknownModel, match=r"Served models: m, pro\.$"):
        await (await World().fund()).embed(model="nope")


async def test_pro_model_serves_pro_keys() -> None:
    world = await World().fund()
    world.principal = Principal(ACCOUNT, is_pro=True)
    assert (await world.embed(model="pro")).model.id == "pro"


@pytest.mark.parametrize("dimensions", [2, 4])
async def test_sizes_of_the_model_are_accepted(dimensions: int) -> None:
    world = await World().fund()
    await world.embed(dimensions=dimensions)


async def test_engine_failure_releases_the_hold() -> None:
    world = await World().fund()
    world.model.error = InferenceFailed()
    with pytest.raises(InferenceFailed):
        await world.embed()
    assert await world.money() == (1000, 0)


async def test_cancelled_caller_is_not_charged() -> None:
    world = await World().fund()
    world.model.gate = asyncio.Event()
    request = asyncio.create_task(world.embed())
    await world.model.started.wait()
    assert await world.money() == (1000, 50)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await world.money() == (1000, 0)


@pytest.mark.parametrize("error", [InvalidRequest("refused"), asyncio.CancelledError()])
@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("tokens", "is_whole"), [(3, False), (5, True)])
async def test_what_a_provider_billed_is_charged_to_who_left_or_sent_what_it_refuses(
    error: BaseException, key: str | None, tokens: int, *, is_whole: bool
) -> None:
    world = await World().fund()
    error.__cause__ = BilledUsage(Usage(tokens), is_whole)
    world.model.error = error
    with pytest.raises(type(error)):
        await world.embed("hello", key=key)
    assert await world.money() == (1000 - 10 * tokens, 0)
    world.model.error = None
    await world.embed("hello", key=key)
    is_repeat = key is not None and is_whole
    assert await world.money() == (1000 - 10 * tokens - (0 if is_repeat else 50), 0)


async def test_unaffordable_request_encodes_nothing() -> None:
    world = await World().fund(49)
    with pytest.raises(InsufficientBalance, match="Insufficient balance"):
        await world.embed("hello")
    assert world.model.embedded == 0
    assert await world.money() == (49, 0)


async def test_sixty_four_at_once_spend_exactly_what_is_there() -> None:
    world = await World().fund(500)
    world.model.gate = asyncio.Event()
    requests = [asyncio.create_task(world.embed("hello")) for _ in range(64)]
    for refused in islice(asyncio.as_completed(requests), 54):
        with pytest.raises(InsufficientBalance):
            await refused
    world.model.gate.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert sum(isinstance(outcome, EmbedResult) for outcome in outcomes) == 10
    assert await world.money() == (0, 0)


async def test_repeat_under_an_idempotency_key_is_charged_once() -> None:
    world = await World().fund(50)
    first = await world.embed("hello", key="k")
    again = await world.embed("hello", key="k")
    assert again.charge == first.charge
    assert world.model.embedded == 2
    assert await world.money() == (0, 0)


async def test_a_charge_is_answered_again_a_few_times() -> None:
    world = await World().fund(100)
    for _ in range(1 + MAX_REPEATS):
        await world.embed("hello", key="k")
    with pytest.raises(IdempotencyKeySpent, match=rf"repeated {MAX_REPEATS} times\. Use a new key"):
        await world.embed("hello", key="k")
    assert world.model.embedded == 1 + MAX_REPEATS
    assert await world.money() == (50, 0)
    await world.embed("hello", key="another")
    assert await world.money() == (0, 0)


async def test_requests_under_one_key_at_once_are_repeats_too() -> None:
    world = await World().fund(5000)
    world.model.gate = asyncio.Event()
    requests = [asyncio.create_task(world.embed("hello", key="k")) for _ in range(MAX_REPEATS + 4)]
    await world.model.started.wait()
    world.model.gate.set()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert sum(isinstance(outcome, EmbedResult) for outcome in outcomes) == 1 + MAX_REPEATS
    assert sum(isinstance(outcome, IdempotencyKeySpent) for outcome in outcomes) == 3
    assert world.model.embedded == 1 + MAX_REPEATS
    assert await world.money() == (4950, 0)


async def test_attempts_that_failed_are_no_repeats() -> None:
    world = await World().fund(50)
    world.model.error = InferenceFailed()
    for _ in range(9):
        with pytest.raises(InferenceFailed):
            await world.embed("hello", key="k")
    world.model.error = None
    await world.embed("hello", key="k")
    assert await world.money() == (0, 0)


async def test_a_charge_is_answered_again_for_a_day() -> None:
    world = await World().fund(1000)
    clock = FixedClock(datetime.now(UTC))
    world.service = EmbedService(world.registry, Billing(world.store.ledger, NoMetrics(), clock), NoMetrics())
    await world.embed("hello", key="k")
    clock.advance(hours=23, minutes=59)
    await world.embed("hello", key="k")
    clock.advance(minutes=2)
    with pytest.raises(IdempotencyKeySpent, match="more than 24 hours ago"):
        await world.embed("hello", key="k")
    assert world.model.embedded == 2


async def test_idempotency_key_names_one_request() -> None:
    world = await World().fund()
    await world.embed("hello", key="k")
    for other in ({"dimensions": 2}, {"model": "alias"}):
        with pytest.raises(IdempotencyConflict):
            await world.embed("hello", key="k", **other)
    with pytest.raises(IdempotencyConflict):
        await world.embed("other", key="k")
    assert await world.money() == (950, 0)


async def test_token_limit_refuses_before_anything_is_held() -> None:
    world = await World(tokens_per_minute=4).fund()
    with pytest.raises(RateLimited):
        await world.embed("hello")
    assert await world.money() == (1000, 0)
