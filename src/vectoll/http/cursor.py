"""The continuation token of /billing/usage-history."""

import base64
import hashlib
from datetime import datetime

import msgspec

from vectoll.domain.errors import InvalidRequest
from vectoll.domain.ids import AccountId

MAX_LENGTH = 512
_CHECK_BYTES = 12


class Walk(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a walk through an account's history stands, and the filters that it was begun with."""

    page_size: int
    after_seq: int = 0
    start: datetime | None = None
    end: datetime | None = None
    currency: str | None = None


_DECODER = msgspec.msgpack.Decoder(Walk)


def write_cursor(walk: Walk, account: AccountId) -> str:
    """A token of ``[A-Za-z0-9_-]``, good for this account only.

    The check is no signature, and needs none: whoever forges one reads a page of their own history, which they
    may read anyway. It needs no secret, so a token outlives a restart and works on every replica.
    """
    payload = msgspec.msgpack.encode(walk)
    return base64.urlsafe_b64encode(_check(payload, account) + payload).decode().rstrip("=")


def read_cursor(token: str, account: AccountId) -> Walk:
    """The walk to continue. Raises InvalidRequest for a token that was changed or is another account's."""
    walk = _read(token, account) if len(token) <= MAX_LENGTH else None
    if walk is None:
        raise InvalidRequest.at(("cursor",), "The cursor is not valid: start again from the first page")
    return walk


def _read(token: str, account: AccountId) -> Walk | None:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, payload = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
        return _DECODER.decode(payload) if check == _check(payload, account) else None
    except (ValueError, msgspec.DecodeError):
        return None


def _check(payload: bytes, account: AccountId) -> bytes:
    return hashlib.blake2b(payload + account.encode(), digest_size=_CHECK_BYTES).digest()
