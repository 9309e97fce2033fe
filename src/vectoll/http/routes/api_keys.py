"""/api_keys: the keys of the caller's own account, for ADMIN keys; and the caller's own limits."""

import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.errors import InvalidRequest, NotFound
from vectoll.domain.identity import ApiKey, LimitPeriod, Principal, new_secret, next_epoch
from vectoll.domain.ids import KeyId
from vectoll.domain.instants import format_instant
from vectoll.domain.limits import RateLimit
from vectoll.domain.money import format_usd, to_decimal
from vectoll.http import schemas_account as schemas
from vectoll.http.body import decode_json
from vectoll.http.entry import admit_to_account, read_callers_body
from vectoll.http.new_key import check_heritage, new_key
from vectoll.http.record import stranger
from vectoll.http.responses import json_response
from vectoll.http.services import Services, services_of
from vectoll.ports.ledger import KeyUsage

MAX_ACTIVE_KEYS = 500
CREATIONS = RateLimit(20, 60)
"""New keys per account and minute."""
FREE_CREATIONS = RateLimit(20)
"""Keys of wallets per client address and minute, and those that keys without credit make: a fresh wallet costs
nothing, and its account and keys stay for good."""
FREE_CREATIONS_LIMIT = f"{FREE_CREATIONS.amount} API keys of wallets per minute from one address"
MAX_BODY_BYTES = 16_384

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CREATE = msgspec.json.Decoder(schemas.CreateApiKeyRequest, float_hook=Decimal)


async def list_keys(request: Request) -> Response:
    """The account's active keys, oldest first."""
    principal, permit = await admit_to_account(request, admin=True)
    services = services_of(request)
    with permit:
        keys = await services.keys.active(principal.account, services.clock.now())
        return json_response(schemas.ApiKeyList(await _describe(services, principal, keys)))


async def create_key(request: Request) -> Response:
    """A new key of the caller's account. Its secret is in this answer and nowhere else."""
    principal, permit = await admit_to_account(request, admin=True)
    services = services_of(request)
    with permit:
        wanted = decode_json(await read_callers_body(request, MAX_BODY_BYTES), _CREATE)
        now = services.clock.now()
        secret = new_secret()
        key = new_key(wanted, principal, secret, now)
        maker = await services.keys.get(principal.key) if principal.key else None
        if maker is not None:
            check_heritage(key, maker)
        await require_room(services, principal)
        if services.wallets and not (await services.ledger.balance(principal.account)).total:
            await take_free_creation(services, stranger(request.scope))
        await services.keys.add(key)
        return json_response(schemas.CreateApiKeyResponse(created(key, secret)))


async def delete_key(request: Request) -> Response:
    """Revoke one of the account's keys, named by the query parameter ``id``."""
    principal, permit = await admit_to_account(request, admin=True)
    services = services_of(request)
    with permit:
        key_id = request.query_params.get("id")
        if not key_id:
            raise InvalidRequest.at(("id",), "id is required: the ID of the API key to delete")
        key = await _own_key(services, principal, key_id)
        await services.keys.revoke(key.id, services.clock.now())
        return json_response(schemas.Success())


async def get_key(request: Request) -> Response:
    """One of the account's keys, by id."""
    principal, permit = await admit_to_account(request, admin=True)
    services = services_of(request)
    with permit:
        key = await _own_key(services, principal, request.path_params["key_id"])
        [described] = await _describe(services, principal, [key])
        return json_response(schemas.ApiKeyResponse(described))


async def get_rate_limits(request: Request) -> Response:
    """What the caller may do and has left; any key may ask."""
    principal, permit = await admit_to_account(request)
    services = services_of(request)
    with permit:
        balance = await services.ledger.balance(principal.account)
        key = await services.keys.get(principal.key) if principal.key else None
    limits = _limits(services)
    return json_response(
        schemas.RateLimitsResponse(
            schemas.RateLimits(
                accessPermitted=balance.available > 0,
                apiTier=schemas.ApiTier(),
                balances=schemas.TierBalances(
                    USD=Decimal(format_usd(balance.available_credit)),
                    DIEM=Decimal(format_usd(balance.available_allowance)),
                ),
                keyExpiration=_instant(key.expires_at if key else None),
                nextEpochBegins=format_instant(next_epoch(services.clock.now())),
                rateLimits=[schemas.ModelRateLimits(spec.id, limits) for spec in services.models.specs],
            )
        )
    )


def _limits(services: Services) -> list[schemas.RateLimitAmount]:
    settings = services.settings.limits
    requests = schemas.RateLimitAmount(settings.requests_per_minute, "RPM")
    tokens = schemas.RateLimitAmount(settings.tokens_per_minute, "TPM")
    return [limit for limit in (requests, tokens) if limit.amount]


async def _own_key(services: Services, principal: Principal, key_id: str) -> ApiKey:
    """Raises NotFound for a key that is revoked, another account's, or none: strangers cannot tell which."""
    key = await services.keys.get(KeyId(key_id)) if _KEY_ID.fullmatch(key_id) else None
    if key is None or key.account != principal.account or key.revoked_at is not None:
        raise NotFound("No API key of this account has that id")
    return key


async def require_room(services: Services, principal: Principal) -> None:
    """Raises RateLimited after too many new keys in a minute, InvalidRequest when there are too many in all."""
    decision = await services.admission.limiter.hit(CREATIONS, "key-creations", principal.account, cost=1)
    decision.check(f"{CREATIONS.amount} new API keys per minute")
    if len(await services.keys.active(principal.account, services.clock.now())) >= MAX_ACTIVE_KEYS:
        raise InvalidRequest(f"An account has at most {MAX_ACTIVE_KEYS} active API keys: delete one first")


async def take_free_creation(services: Services, client: str) -> None:
    """Count a key that somebody makes who may have nothing. Raises RateLimited."""
    decision = await services.admission.limiter.hit(FREE_CREATIONS, "wallet-keys", client)
    decision.check(FREE_CREATIONS_LIMIT)


async def _describe(
    services: Services, principal: Principal, keys: Iterable[ApiKey]
) -> list[schemas.ApiKeyDetails]:
    limits = {key.id: key.limit for key in keys}
    usage = await services.ledger.key_usage(principal.account, limits, services.clock.now())
    return [_details(key, usage[key.id]) for key in keys]


def _details(key: ApiKey, spent: KeyUsage) -> schemas.ApiKeyDetails:
    return schemas.ApiKeyDetails(
        apiKeyType=key.kind,
        consumptionLimits=_consumption_limit(key),
        createdAt=format_instant(key.created_at),
        description=key.name,
        expiresAt=_instant(key.expires_at),
        id=key.id,
        last6Chars=key.last6,
        lastUsedAt=_instant(spent.last_used_at),
        limitPeriod=_period(key),
        modelPrivacy="ALL",
        usage=schemas.ApiKeyUsage(schemas.TrailingUsage(format_usd(spent.trailing_seven_days))),
        currentPeriodUsage=schemas.PeriodUsage(format_usd(spent.current_period)) if key.limit else UNSET,
    )


def created(key: ApiKey, secret: str) -> schemas.CreatedKey:
    """A new key, with its secret for the only time."""
    return schemas.CreatedKey(
        apiKey=secret,
        apiKeyType=key.kind,
        consumptionLimit=_consumption_limit(key),
        description=key.name,
        expiresAt=_instant(key.expires_at),
        id=key.id,
        limitPeriod=_period(key),
    )


def _consumption_limit(key: ApiKey) -> schemas.ConsumptionLimit:
    return schemas.ConsumptionLimit(usd=to_decimal(key.limit.amount).normalize() if key.limit else None)


def _period(key: ApiKey) -> LimitPeriod:
    return key.limit.period if key.limit else LimitPeriod.EPOCH


def _instant(at: datetime | None) -> str | None:
    return format_instant(at) if at else None
