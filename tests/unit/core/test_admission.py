"""Admission over the in-memory limiter."""

import pytest

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.core.admission import MAX_BYTES, MAX_BYTES_EACH, UNCOUNTED_BYTES, Admission
from vectoll.domain.errors import AtCapacity, RateLimited
from vectoll.domain.identity import Caller
from vectoll.settings import LimitsSettings


def admission(**limits: int) -> Admission:
    return Admission(MemoryRateLimiter(), LimitsSettings(**limits))


async def test_requests_are_counted_per_caller_and_model() -> None:
    door = admission(requests_per_minute=2)
    for model in ("m", "m", "other"):
        await (await door.admit(Caller.keyless("a"))).take_request(model)
    permit = await door.admit(Caller.keyless("a"))
    with pytest.raises(RateLimited, match="2 requests per minute"):
        await permit.take_request("m")
    assert permit.requests is not None
    assert permit.requests.remaining == 0
    await (await door.admit(Caller.keyless("b"))).take_request("m")


async def test_refused_tokens_are_not_counted() -> None:
    door = admission(tokens_per_minute=100)
    permit = await door.admit(Caller.keyless("a"))
    await permit.take_tokens("m", 60)
    with pytest.raises(RateLimited, match="this request has 50"):
        await permit.take_tokens("m", 50)
    await permit.take_tokens("m", 40)


async def test_zero_is_no_limit() -> None:
    door = admission(requests_per_minute=0, tokens_per_minute=0, failures_before_block=0)
    permit = await door.admit(Caller.keyless("a"))
    for _ in range(50):
        await door.record_failure(Caller.keyless("a"))
        await permit.take_request("m")
        await permit.take_tokens("m", 10**9)
    assert permit.requests is None
    await door.admit(Caller.keyless("a"))


async def test_more_failures_than_allowed_block_that_caller_only() -> None:
    door = admission(failures_before_block=20, block_s=30)
    for _ in range(20):
        await door.record_failure(Caller.keyless("a"))
    await door.admit(Caller.keyless("a"))
    await door.record_failure(Caller.keyless("a"))
    with pytest.raises(RateLimited, match="Too many failed requests") as blocked:
        await door.admit(Caller.keyless("a"))
    assert 29 <= blocked.value.retry_after_s <= 30
    await door.admit(Caller.keyless("b"))


async def test_memory_of_requests_in_flight_is_capped_for_each_caller_and_for_all_and_freed() -> None:
    door, size = admission(), MAX_BYTES_EACH // 2
    permits = [await door.admit(Caller.keyless(caller)) for caller in "aabbccdd"]
    for permit in permits:
        permit.hold_bytes(size // 3)
        permit.hold_bytes(size)
    another, stranger = await door.admit(Caller.keyless("a")), await door.admit(Caller.keyless("e"))
    with pytest.raises(RateLimited, match="256 MiB"):
        another.hold_bytes(size)
    with pytest.raises(AtCapacity):
        stranger.hold_bytes(size)
    stranger.hold_bytes(UNCOUNTED_BYTES)
    permits[0].leave()
    permits[0].leave()
    another.hold_bytes(size)
    for permit in (*permits, another, stranger):
        permit.leave()
    alone = await door.admit(Caller.keyless("a"))
    alone.hold_bytes(2 * MAX_BYTES)
    alone.leave()
    assert not door._bytes
    assert not door._bytes_of_accounts
    assert not door.bytes_in_flight


async def test_the_keys_of_one_account_leave_half_of_the_memory_to_others() -> None:
    door = admission()
    for key in "abc":
        permit = await door.admit(Caller("rich", key))
        if key != "c":
            permit.hold_bytes(MAX_BYTES_EACH)
    with pytest.raises(RateLimited, match="512 MiB"):
        permit.hold_bytes(MAX_BYTES_EACH)
    for account in ("poor", "other"):
        (await door.admit(Caller.keyless(account))).hold_bytes(MAX_BYTES_EACH)


async def test_requests_in_flight_are_capped_and_freed() -> None:
    door = admission(requests_in_flight=1)
    with await door.admit(Caller.keyless("a")):
        with pytest.raises(RateLimited, match="in flight"):
            await door.admit(Caller.keyless("a"))
        with await door.admit(Caller.keyless("b")):
            pass
    with await door.admit(Caller.keyless("a")):
        pass
    assert not door._in_flight


async def test_of_two_that_were_admitted_before_either_entered_one_is_let_in() -> None:
    door = admission(requests_in_flight=1)
    first, second = await door.admit(Caller.keyless("a")), await door.admit(Caller.keyless("a"))
    with first, pytest.raises(RateLimited, match="in flight"), second:
        pass
    with second:
        pass
    assert not door._in_flight


async def test_an_accounts_keys_have_four_times_as_many_requests_in_flight_as_one_of_them() -> None:
    door = admission(requests_in_flight=2)
    permits = [await door.admit(Caller("rich", f"key_{n // 2}")) for n in range(9)]
    for permit in permits[:8]:
        permit.__enter__()
    with pytest.raises(RateLimited, match="8 at most, by all keys of an account"), permits[8]:
        pass
    with pytest.raises(RateLimited):
        await door.admit(Caller("rich", "key_9"))
    with await door.admit(Caller("other", "key_10")):
        pass
    permits[0].leave()
    with permits[8]:
        pass
    for permit in permits[1:8]:
        permit.leave()
    assert not door._in_flight
    assert not door._in_flight_of_accounts
