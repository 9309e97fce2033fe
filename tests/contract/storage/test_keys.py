"""What every KeyStore does."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.ledger import ALICE, BOB, NOON, make_credit, make_key

from vectoll.domain.errors import Forbidden, InvalidRequest
from vectoll.domain.identity import ApiKey, KeyKind, LimitPeriod, SpendLimit, digest_of
from vectoll.domain.ids import AccountId, KeyId
from vectoll.domain.money import ZERO, usd
from vectoll.ports.keys import KeyStore
from vectoll.ports.store import Store

FULL = make_key(
    "full",
    expires_at=NOON + timedelta(days=1, microseconds=1),
    limit=SpendLimit(usd("1.5"), LimitPeriod.MONTH),
    kind=KeyKind.ADMIN,
    is_pro=True,
)


@pytest.mark.parametrize("key", [make_key("plain"), FULL], ids=["plain", "full"])
async def test_a_key_comes_back_as_it_was_added(keys: KeyStore, key: ApiKey) -> None:
    await keys.add(key)
    assert await keys.get(key.id) == key
    assert await keys.by_digest(key.digest) == key


@pytest.mark.parametrize("name", ["a\0b", "a\ud800"], ids=ascii)
async def test_a_name_that_no_database_can_hold_is_refused(keys: KeyStore, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await keys.add(replace(FULL, name=name))
    assert await keys.list() == []


async def test_unknown_keys(keys: KeyStore) -> None:
    assert await keys.get(KeyId("nothing")) is None
    assert await keys.by_digest(digest_of("vtk_nothing")) is None
    assert await keys.list() == []


async def test_adding_a_key_opens_its_account_and_keeps_an_old_one(store: Store) -> None:
    await store.ledger.post(make_credit("5"))
    await store.keys.add(make_key("a", ALICE))
    await store.keys.add(make_key("b", BOB))
    assert (await store.ledger.balance(ALICE)).balance == usd(5)
    assert (await store.ledger.balance(BOB)).balance == ZERO
    assert (await store.ledger.verify()).is_clean


@pytest.mark.parametrize("change", [{"id": KeyId("other")}, {"digest": b"other" * 8}], ids=["digest", "id"])
async def test_an_id_and_a_secret_are_added_once(keys: KeyStore, change: dict[str, object]) -> None:
    await keys.add(FULL)
    with pytest.raises(InvalidRequest):
        await keys.add(replace(FULL, **change))  # type: ignore[arg-type]
    assert await keys.list() == [FULL]


async def test_house_accounts_have_no_keys(keys: KeyStore) -> None:
    with pytest.raises(Forbidden):
        await keys.add(make_key("a", AccountId("$revenue:2026-11")))


async def test_keys_are_listed_oldest_first(keys: KeyStore) -> None:
    young = make_key("young", created_at=NOON + timedelta(hours=1))
    old = make_key("old")
    same = make_key("same")
    other = make_key("other", BOB, created_at=NOON - timedelta(hours=1))
    for key in (young, old, same, other):
        await keys.add(key)
    assert await keys.list() == [other, old, same, young]
    assert await keys.list(ALICE) == [old, same, young]


async def test_active_keys_are_neither_revoked_nor_expired(keys: KeyStore) -> None:
    later = NOON + timedelta(minutes=1)
    forever, revoked, other = make_key("forever"), make_key("revoked"), make_key("other", BOB)
    lapsed, lapsing = make_key("lapsed", expires_at=NOON), make_key("lapsing", expires_at=later)
    young = make_key("young", created_at=NOON - timedelta(hours=1), expires_at=later)
    for key in (forever, revoked, other, lapsed, lapsing, young):
        await keys.add(key)
    await keys.revoke(revoked.id, NOON)
    assert await keys.active(ALICE, NOON) == [young, forever, lapsing]
    assert await keys.active(ALICE, later) == [forever]


async def test_revocation_is_seen_by_the_next_lookup_and_happens_once(keys: KeyStore) -> None:
    await keys.add(FULL)
    later = NOON + timedelta(minutes=1)
    assert await keys.revoke(FULL.id, later)
    revoked = replace(FULL, revoked_at=later)
    assert await keys.by_digest(FULL.digest) == revoked
    assert await keys.get(FULL.id) == revoked
    assert not await keys.revoke(FULL.id, later + timedelta(minutes=1))
    assert await keys.list() == [revoked]
    assert not await keys.revoke(KeyId("nothing"), later)
