"""The bodies of /api_keys and /billing, as types. Names are the wire's own, so most are in camel case."""

from decimal import Decimal
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from vectoll.domain.identity import KeyKind, LimitPeriod

_USD_LIMIT = {"type": ["number", "null"], "minimum": 0, "maximum": 9_000_000}
_NOT_METERED = {"type": "null"}


class ConsumptionLimitRequest(Struct, forbid_unknown_fields=True):
    """What a key may spend in its period. Only dollars are metered here: other currencies must be null."""

    usd: Annotated[Any, Meta(extra_json_schema=_USD_LIMIT)] = None
    diem: Annotated[Any, Meta(extra_json_schema=_NOT_METERED)] = None
    vcu: Annotated[Any, Meta(extra_json_schema=_NOT_METERED)] = None


class CreateApiKeyRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /api_keys."""

    apiKeyType: KeyKind
    description: Annotated[str, Meta(max_length=64)]
    consumptionLimit: ConsumptionLimitRequest | None = None
    limitPeriod: LimitPeriod = LimitPeriod.EPOCH
    modelPrivacy: Annotated[
        Literal["ALL", "PRIVATE_TEXT", "PRIVATE_ONLY"],
        Meta(description="Only ALL is possible here; anything else is refused."),
    ] = "ALL"
    expiresAt: Annotated[
        str | None,
        Meta(description="YYYY-MM-DD (00:00 UTC) or YYYY-MM-DDThh:mm:ss[.mmm]Z; empty or null: never."),
    ] = None


class ConsumptionLimit(Struct):
    """A key's limit in each currency; null is none."""

    usd: Decimal | None
    diem: None = None
    vcu: None = None


class CreatedKey(Struct):
    """A new key, with its secret for the only time."""

    apiKey: str
    apiKeyType: KeyKind
    consumptionLimit: ConsumptionLimit
    description: str
    expiresAt: str | None
    id: str
    limitPeriod: LimitPeriod
    modelPrivacy: Literal["ALL"] = "ALL"


class CreateApiKeyResponse(Struct):
    """The answer of POST /api_keys."""

    data: CreatedKey
    success: bool = True


class TrailingUsage(Struct):
    """Spend as decimal strings."""

    usd: str
    vcu: str = "0"
    diem: str = "0"


class ApiKeyUsage(Struct):
    """What a key has spent of late."""

    trailingSevenDays: TrailingUsage


class PeriodUsage(Struct):
    """What a key has spent in its limit's current period."""

    usd: str
    diem: str = "0"


class ApiKeyDetails(Struct, omit_defaults=True):
    """A key as it is listed."""

    apiKeyType: KeyKind
    consumptionLimits: ConsumptionLimit
    createdAt: str | None
    description: str
    expiresAt: str | None
    id: str
    last6Chars: str
    lastUsedAt: str | None
    limitPeriod: LimitPeriod
    modelPrivacy: Literal["ALL"]
    usage: ApiKeyUsage
    currentPeriodUsage: PeriodUsage | msgspec.UnsetType = msgspec.UNSET


class ApiKeyList(Struct):
    """The answer of GET /api_keys."""

    data: list[ApiKeyDetails]
    object: Literal["list"] = "list"


class ApiKeyResponse(Struct):
    """The answer of GET /api_keys/{id}."""

    data: ApiKeyDetails


class Success(Struct):
    """The answer of DELETE /api_keys."""

    success: bool = True


class ApiTier(Struct):
    """Everybody pays per use."""

    id: str = "paid"
    isCharged: bool = True


class TierBalances(Struct):
    """Credit, and as DIEM what is left of today's allowance, in dollars both."""

    USD: Decimal
    DIEM: Decimal = Decimal(0)


class RateLimitAmount(Struct):
    """RPM or TPM: requests or tokens per minute."""

    amount: int
    type: Literal["RPM", "TPM"]


class ModelRateLimits(Struct):
    """A model's limits for one key."""

    apiModelId: str
    rateLimits: list[RateLimitAmount]


class RateLimits(Struct):
    """A caller's limits and credit."""

    accessPermitted: bool
    apiTier: ApiTier
    balances: TierBalances
    keyExpiration: str | None
    nextEpochBegins: str
    rateLimits: list[ModelRateLimits]


class RateLimitsResponse(Struct):
    """The answer of GET /api_keys/rate_limits."""

    data: RateLimits


class CurrencyBalances(Struct):
    """What is left. ``diem`` is what is left of today's allowance in dollars; null where there is none today."""

    usd: Decimal
    diem: Decimal | None = None


class BillingBalance(Struct):
    """The answer of GET /billing/balance."""

    balances: CurrencyBalances
    canConsume: bool
    consumptionCurrency: Literal["USD", "DIEM"] | None
    diemEpochAllocation: Decimal = Decimal(0)


class InferenceDetails(Struct):
    """The request behind a usage entry."""

    inferenceExecutionTime: int | None
    promptTokens: int
    requestId: str
    completionTokens: None = None


class UsageEntry(Struct):
    """What one charge took of one currency, DIEM for the day's allowance; ``amount`` is negative.

    A charge that both paid is two entries, whose units add up to what was used.
    """

    amount: Decimal
    inferenceDetails: InferenceDetails
    pricePerUnitUsd: Decimal
    sku: str
    timestamp: str
    units: Decimal
    currency: Literal["USD", "DIEM"] = "USD"
    notes: str = "API Inference"


class UsageHistory(Struct):
    """The answer of GET /billing/usage-history."""

    data: list[UsageEntry]
    nextCursor: str | None
