import asyncio
from datetime import UTC, datetime
from unittest.mock import patch

import pytest

from vectoll.adapters.storage.memory import MemoryKeys, MemoryStore
from vectoll.core import recent_keys
from vectoll.core.recent_keys import RecentKeys
from vectoll.domain.identity import ApiKey, digest_of
from vectoll.domain.ids import AccountId

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SECRET = "vk_secret"
DIGEST = digest_of(SECRET)


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.keys.add(ApiKey.of_secret(SECRET, AccountId("alice"), "test", NOW))
    return store


async def test_a_key_revoked_elsewhere_is_seen_when_the_time_is_up(store: MemoryStore) -> None:
    keys = RecentKeys(store.keys)
    with patch("time.monotonic", return_value=100.0) as clock:
        key = await keys.by_digest(DIGEST)
        assert key is not None
        await store.keys.revoke(key.id, NOW)
        clock.return_value = 100.0 + recent_keys.REMEMBERED_S - 0.01
        assert await keys.by_digest(DIGEST) == key
        clock.return_value = 100.0 + recent_keys.REMEMBERED_S
        seen = await keys.by_digest(DIGEST)
    assert seen is not None
    assert seen.revoked_at == NOW


async def test_a_key_revoked_here_is_seen_at_once(store: MemoryStore) -> None:
    keys = RecentKeys(store.keys)
    key = await keys.by_digest(DIGEST)
    assert key is not None
    assert await keys.revoke(key.id, NOW)
    seen = await keys.by_digest(DIGEST)
    assert seen is not None
    assert seen.revoked_at == NOW


async def test_a_key_revoked_here_is_not_remembered_by_a_lookup_under_way(store: MemoryStore) -> None:
    slow = SlowKeys(store)
    keys = RecentKeys(slow)
    looking_up = asyncio.create_task(keys.by_digest(DIGEST))
    await slow.has_read.wait()
    [key] = await keys.list()
    assert await keys.revoke(key.id, NOW)
    slow.may_answer.set()
    assert await looking_up == key  # it was asked before
    seen = await keys.by_digest(DIGEST)
    assert seen is not None
    assert seen.revoked_at == NOW


class SlowKeys(MemoryKeys):
    """Another's keys; a look-up's answer takes a while to arrive."""

    def __init__(self, store: MemoryStore) -> None:
        self.__dict__ = store.keys.__dict__
        self.has_read, self.may_answer = asyncio.Event(), asyncio.Event()

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        found = await super().by_digest(digest)
        self.has_read.set()
        await self.may_answer.wait()
        return found


async def test_a_key_that_was_unknown_works_as_soon_as_it_exists(store: MemoryStore) -> None:
    keys = RecentKeys(store.keys)
    assert await keys.by_digest(digest_of("vk_other")) is None
    await store.keys.add(ApiKey.of_secret("vk_other", AccountId("bob"), "test", NOW))
    assert await keys.by_digest(digest_of("vk_other")) is not None


async def test_no_more_than_so_many_are_remembered(store: MemoryStore) -> None:
    keys = RecentKeys(store.keys)
    with patch.object(recent_keys, "MAX_REMEMBERED", 2):
        for number in range(5):
            secret = f"vk_{number}"
            await store.keys.add(ApiKey.of_secret(secret, AccountId("bob"), "test", NOW))
            assert await keys.by_digest(digest_of(secret)) is not None
            assert len(keys._recent) <= 2
