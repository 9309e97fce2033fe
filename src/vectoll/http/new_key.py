"""From the body of POST /api_keys to a domain key. What cannot be enforced is refused, never ignored."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from vectoll.domain.errors import Forbidden, InvalidRequest
from vectoll.domain.identity import ApiKey, Principal, SpendLimit
from vectoll.domain.ids import parse_text
from vectoll.domain.instants import format_instant, parse_date_or_instant
from vectoll.domain.money import Amount, usd
from vectoll.http import schemas_account as schemas


def new_key(wanted: schemas.CreateApiKeyRequest, principal: Principal, secret: str, now: datetime) -> ApiKey:
    """The key that ``wanted`` describes. Raises InvalidRequest for what cannot be enforced here."""
    if wanted.modelPrivacy != "ALL":
        raise InvalidRequest.of(
            ("modelPrivacy",), "keys are not restricted by privacy here, only 'ALL' is possible"
        )
    return ApiKey.of_secret(
        secret,
        principal.account,
        _name(wanted.description),
        now,
        kind=wanted.apiKeyType,
        expires_at=_expiry(wanted.expiresAt, now),
        limit=_spend_limit(wanted),
        is_pro=principal.is_pro,
    )


def check_heritage(key: ApiKey, maker: ApiKey) -> None:
    """Raises unless ``key`` can do no more than the key that makes it.

    Forbidden for a maker with a spend limit: what its keys spend would not count against it, however small their own.
    InvalidRequest for a key that would outlive its maker.
    """
    if maker.limit is not None:
        raise Forbidden(
            "This API key has a spend limit, which keys that it makes would not count against: "
            "create keys with an ADMIN key that has none."
        )
    if maker.expires_at is not None and (key.expires_at is None or key.expires_at > maker.expires_at):
        raise InvalidRequest.of(
            ("expiresAt",),
            f"must not be later than {format_instant(maker.expires_at)}, when this API key expires",
        )


def _name(text: str) -> str:
    try:
        return parse_text(text)
    except ValueError as error:
        raise InvalidRequest.of(("description",), str(error)) from None


def _expiry(text: str | None, now: datetime) -> datetime | None:
    if not text:
        return None
    expires_at = parse_date_or_instant(text)
    if expires_at is None:
        raise InvalidRequest.of(("expiresAt",), "must be YYYY-MM-DD or YYYY-MM-DDThh:mm:ss.mmmZ")
    if expires_at <= now:
        raise InvalidRequest.of(("expiresAt",), "must be in the future")
    return expires_at


def _spend_limit(wanted: schemas.CreateApiKeyRequest) -> SpendLimit | None:
    limits = wanted.consumptionLimit
    if limits is None:
        return None
    for currency in ("diem", "vcu"):
        if getattr(limits, currency) is not None:
            raise InvalidRequest.of(
                ("consumptionLimit", currency), "only usd is metered here: leave this out"
            )
    if limits.usd is None:
        return None
    return SpendLimit(_dollars(limits.usd), wanted.limitPeriod)


def _dollars(value: Any) -> Amount:
    path = ("consumptionLimit", "usd")
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        raise InvalidRequest.of(path, "must be a number of dollars from 0 to 9000000")
    try:
        return usd(value)
    except ValueError as error:
        raise InvalidRequest.of(
            path, f"must be a number of dollars from 0 to 9000000, this is {error}"
        ) from None
