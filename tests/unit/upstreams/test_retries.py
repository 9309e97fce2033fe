"""When to ask again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.upstreams.retries import MAX_RETRY_AFTER_S, RetryPolicy, retry_after_s

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({}, b"", None),
        ({"retry-after": "7"}, b"", 7.0),
        ({"retry-after": " 1.5 "}, b"", 1.5),
        ({"retry-after": "0"}, b"", 0.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, b"", 0.25),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:00 GMT"}, b"", 60.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, b"", 0.0),
        ({"retry-after": "99999999"}, b"", MAX_RETRY_AFTER_S),
        ({"retry-after": "soon"}, b"", None),
        ({"retry-after": "0 JAN 0:200000000000 0"}, b"", None),
        ({"retry-after": "٣"}, b"", None),
        ({"retry-after": "0\x1f"}, b"", None),
        ({"retry-after": "-5"}, b"", None),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": "1e400"}, b"", None),
        ({}, b'{"error":{"details":[{"retryDelay": "34.07s"}]}}', 34.07),
    ],
)
def test_what_a_provider_asks_for(headers: dict[str, str], body: bytes, seconds: float | None) -> None:
    assert retry_after_s(headers, body, NOW) == seconds


@given(value=st.text(), body=st.binary())
def test_whatever_is_sent_is_none_or_a_bounded_time(value: str, body: bytes) -> None:
    seconds = retry_after_s({"retry-after": value, "retry-after-ms": value}, body, NOW)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S


@given(attempt=st.integers(1, 1000), jitter=st.floats(0, 1), asked=st.none() | st.floats(0, 100))
def test_pauses_are_jittered_bounded_and_never_shorter_than_asked(
    attempt: int, jitter: float, asked: float | None
) -> None:
    policy = RetryPolicy(base_s=0.25, cap_s=8.0)
    pause_s = policy.pause_s(attempt, asked, lambda: jitter)
    assert pause_s == (asked or 0) + jitter * min(8.0, 0.25 * 2.0 ** min(attempt - 1, 32))
