"""Hold, charge or release: whatever happens inside, nothing stays held."""

import asyncio
import hashlib

import msgspec
import pytest
from tests.ledger import ALICE, BOB, PRICE, TOKEN, FixedClock, make_credit
from tests.turns import turns_during

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core import repeats
from vectoll.core.billing import SLICE_BYTES, Billing, OpenHold, fingerprint_of
from vectoll.domain.embedding import EmbeddingRequest, EncodingFormat, Usage
from vectoll.domain.errors import IdempotencyConflict, IdempotencyKeySpent, InsufficientBalance
from vectoll.domain.identity import Principal
from vectoll.domain.ids import AccountId, ModelId, RequestId
from vectoll.domain.ledger import Balance
from vectoll.domain.money import ZERO, Amount, Quote
from vectoll.ports.ledger import Ledger
from vectoll.ports.metrics import NoMetrics

MODEL = ModelId("minilm")
REQUEST = EmbeddingRequest(MODEL, ["hello"])


class Counted(NoMetrics):
    """Counts charged units."""

    units = 0

    def charged(self, model: str, units: int) -> None:
        self.units += units


@pytest.fixture
async def ledger() -> Ledger:
    ledger = MemoryStore(FixedClock()).ledger
    await ledger.post(make_credit(10 * TOKEN))
    await ledger.post(make_credit(10 * TOKEN, BOB))
    return ledger


@pytest.fixture
def metrics() -> Counted:
    return Counted()


@pytest.fixture
def billing(ledger: Ledger, metrics: Counted) -> Billing:
    return Billing(ledger, metrics, FixedClock())


def open_hold(
    billing: Billing,
    tokens: int = 4,
    *,
    account: AccountId = ALICE,
    request: EmbeddingRequest = REQUEST,
    key: str | None = None,
) -> OpenHold:
    quote = Quote(MODEL, tokens, PRICE)
    return billing.hold(Principal(account), quote, request, RequestId("req_1"), idempotency_key=key)


async def test_a_charge_takes_what_was_used(billing: Billing, ledger: Ledger, metrics: Counted) -> None:
    async with open_hold(billing) as hold:
        assert (await ledger.balance(ALICE)).held == 4 * TOKEN
        charge = await hold.charge(Usage(3))
    assert (charge.amount, charge.request_id) == (3 * TOKEN, "req_1")
    assert await ledger.balance(ALICE) == Balance(Amount(7 * TOKEN), ZERO)
    assert metrics.units == 3 * TOKEN


async def test_leaving_uncharged_releases(billing: Billing, ledger: Ledger) -> None:
    async with open_hold(billing):
        pass
    with pytest.raises(RuntimeError, match="engine"):
        async with open_hold(billing):
            raise RuntimeError("engine")
    assert await ledger.balance(ALICE) == Balance(Amount(10 * TOKEN), ZERO)


async def test_cancelling_releases(billing: Billing, ledger: Ledger) -> None:
    async def request() -> None:
        async with open_hold(billing):
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    assert (await ledger.balance(ALICE)).held
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await ledger.balance(ALICE) == Balance(Amount(10 * TOKEN), ZERO)


async def test_a_refused_hold_holds_nothing(billing: Billing, ledger: Ledger) -> None:
    with pytest.raises(InsufficientBalance):
        async with open_hold(billing, tokens=11):
            raise AssertionError
    assert (await ledger.balance(ALICE)).held == 0


async def test_a_repeat_under_an_idempotency_key_pays_once(
    billing: Billing, ledger: Ledger, metrics: Counted
) -> None:
    charges = []
    for _ in range(2):
        async with open_hold(billing, key="k") as hold:
            charges.append(await hold.charge(Usage(4)))
    assert charges[0] == charges[1]
    assert await ledger.balance(ALICE) == Balance(Amount(6 * TOKEN), ZERO)
    assert metrics.units == 4 * TOKEN


async def test_another_request_under_the_same_idempotency_key_is_refused(
    billing: Billing, ledger: Ledger
) -> None:
    async with open_hold(billing, key="k") as hold:
        await hold.charge(Usage(4))
    with pytest.raises(IdempotencyConflict):
        async with open_hold(billing, key="k", request=EmbeddingRequest(MODEL, ["bye"])):
            raise AssertionError
    assert (await ledger.balance(ALICE)).available == 6 * TOKEN


async def test_idempotency_keys_of_two_accounts_are_apart(billing: Billing, ledger: Ledger) -> None:
    for account in (ALICE, BOB):
        async with open_hold(billing, account=account, key="k") as hold:
            await hold.charge(Usage(4))
        assert (await ledger.balance(account)).available == 6 * TOKEN


async def test_fingerprints_tell_requests_apart() -> None:
    requests = [
        REQUEST,
        EmbeddingRequest(MODEL, ["hello", ""]),
        EmbeddingRequest(MODEL, [[1, 2]]),
        EmbeddingRequest(MODEL, [[1], [2]]),
        EmbeddingRequest(MODEL, ["hello"], dimensions=8),
        EmbeddingRequest(MODEL, ["hello"], encoding_format=EncodingFormat.BASE64),
        EmbeddingRequest(ModelId("other"), ["hello"]),
    ]
    assert len({await fingerprint_of(request) for request in requests}) == len(requests)
    assert await fingerprint_of(EmbeddingRequest(MODEL, ("hello",))) == await fingerprint_of(REQUEST)


@pytest.mark.parametrize(
    "wanted",
    [
        REQUEST,
        EmbeddingRequest(ModelId('a"inputs":[]b'), ["ü", '"', "\n"], 256, EncodingFormat.BASE64),
        EmbeddingRequest(MODEL, [[1, 2], [3]]),
        EmbeddingRequest(MODEL, ["a" * SLICE_BYTES] * 3),
    ],
)
async def test_fingerprint_is_the_one_that_ledgers_have(wanted: EmbeddingRequest) -> None:
    assert await fingerprint_of(wanted) == hashlib.sha256(msgspec.json.encode(wanted)).digest()


async def test_others_have_their_turn_while_a_large_request_is_hashed() -> None:
    assert await turns_during(fingerprint_of(EmbeddingRequest(MODEL, [[1] * SLICE_BYTES] * 9))) >= 8


async def repeat(billing: Billing, key: str) -> None:
    async with open_hold(billing, key=key) as hold:
        await hold.charge(Usage(1))


async def test_repeats_of_the_charge_that_was_repeated_first_are_forgotten_where_there_are_too_many(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "MAX_REMEMBERED", 2)
    monkeypatch.setattr(repeats, "MAX_REPEATS", 1)
    for key in ("a", "a", "b", "b", "c", "c"):
        await repeat(billing, key)
    with pytest.raises(IdempotencyKeySpent):
        await repeat(billing, "c")
    await repeat(billing, "a")


async def test_a_repeat_that_is_refused_leaves_no_trace(
    billing: Billing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "MAX_REPEATS", 0)
    await repeat(billing, "k")
    with pytest.raises(IdempotencyKeySpent):
        await repeat(billing, "k")
    assert not billing._repeats._under_way
