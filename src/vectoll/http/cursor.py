"""The continuation token of /billing/usage-history."""

import base64
import hashlib
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vectoll.domain.errors import InvalidRequest
from vectoll.domain.ids import AccountId

MIN_PAGE, MAX_PAGE = 10, 1000
Currency = Literal["USD", "DIEM", "BUNDLED_CREDITS"]
Instant = Annotated[datetime, Meta(tz=True)]
MAX_LENGTH = 512
_CHECK_BYTES = 12


class Walk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a walk through an account's history stands, and the filters that it was begun with."""

    page_size: Annotated[int, Meta(ge=MIN_PAGE, le=MAX_PAGE)]
    after_seq: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    start: Instant | None = None
    end: Instant | None = None
    currency: Currency | None = None


_DECODER = msgspec.msgpack.Decoder(Walk)


def write_cursor(walk: Walk, account: AccountId) -> str:
    """A token of ``[A-Za-z0-9_-]``, good for this account only.

    The check is no signature, and needs none: whoever forges one reads a page of their own history, which they
    may read anyway, and no more of it at once. It needs no secret, so a token outlives a restart and works on every
    replica.
    """
    payload = msgspec.msgpack.encode(walk)
    return base64.urlsafe_b64encode(_check(payload, account) + payload).decode().rstrip("=")


def read_cursor(token: str, account: AccountId) -> Walk:
    """The walk to continue. Raises InvalidRequest for a token that was changed, is another's, or walks astray."""
    walk = _read(token, account) if len(token) <= MAX_LENGTH else None
    if walk is None:
        raise InvalidRequest.at(("cursor",), "The cursor is not valid: start again from the first page")
    return walk


def _read(token: str, account: AccountId) -> Walk | None:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, payload = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        walk = _DECODER.decode(payload) if check == _check(payload, account) else None
    except (ValueError, msgspec.DecodeError):
        return None
    return walk if walk is not None and _are_times_of_a_query(walk) else None


def _are_times_of_a_query(walk: Walk) -> bool:
    """In UTC, and in order."""
    times = [time for time in (walk.start, walk.end) if time is not None]
    return all(not time.utcoffset() for time in times) and (len(times) < 2 or times[0] < times[1])


def _check(payload: bytes, account: AccountId) -> bytes:
    return hashlib.blake2b(payload + account.encode(), digest_size=_CHECK_BYTES).digest()
