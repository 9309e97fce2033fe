"""What the OpenAPI document says about each route. ``tests/unit/http/test_operations.py`` holds it to the routes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

import msgspec

from vectoll.core.payment_header import MAX_HEADER_LENGTH as MAX_PAYMENT_HEADER
from vectoll.core.repeats import MAX_AGE, MAX_REPEATS
from vectoll.http import schemas
from vectoll.http import schemas_account as account
from vectoll.http import schemas_x402 as x402
from vectoll.http.cursor import MAX_LENGTH, MAX_PAGE, MIN_PAGE
from vectoll.http.entry import MAX_IDEMPOTENCY_KEY
from vectoll.http.routes.api_keys import CREATIONS, FREE_CREATIONS, MAX_ACTIVE_KEYS
from vectoll.http.routes.billing import CURRENCIES
from vectoll.http.routes.x402 import DEFAULT_PAGE, MAX_OFFSET
from vectoll.http.routes.x402 import MAX_PAGE as MAX_TRANSACTIONS

_ACCOUNT_ERRORS = (401, 429, 500, 503)
_ADMIN_ERRORS = (401, 403, 429, 500, 503)


@dataclass(frozen=True)
class Operation:
    """One route, for people and generators."""

    method: Literal["get", "post", "delete"]
    path: str
    id: str
    tag: str
    summary: str
    response: type[msgspec.Struct] | None
    request: type[msgspec.Struct] | None = None
    parameters: tuple[Mapping[str, Any], ...] = ()
    errors: tuple[int, ...] = ()
    """Beside those that any request may be answered with."""
    openai_errors: tuple[int, ...] = ()
    """Statuses that only the OpenAI base path answers with."""
    other_answers: Mapping[int, type[msgspec.Struct]] = field(default_factory=dict)
    own_errors: Mapping[int, type[msgspec.Struct]] = field(default_factory=dict)
    """Errors with a shape of their own, except under the OpenAI base path."""
    headers: tuple[str, ...] = ()
    """Headers that only this operation's 200 has."""
    error_headers: tuple[str, ...] = ()
    text_types: tuple[str, ...] = ()
    security: Literal["required", "optional", "none"] = "required"
    is_api: bool = True


def _query(
    name: str, schema: Mapping[str, Any], description: str, *, required: bool = False
) -> dict[str, Any]:
    return {
        "name": name, "in": "query", "required": required, "description": description, "schema": schema
    }  # fmt: skip


def _path(name: str, description: str) -> dict[str, Any]:
    return {
        "name": name, "in": "path", "required": True, "description": description, "schema": {"type": "string"}
    }  # fmt: skip


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": f"The same key with the same body is charged once, and answered again {MAX_REPEATS} times at most, "
    f"within {MAX_AGE // timedelta(hours=1)} hours. After that, and with another body, it is 409.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY, "pattern": "^[ -~]+$"},
}
_ACCEPT_ENCODING = {
    "name": "Accept-Encoding",
    "in": "header",
    "required": False,
    "description": "Supported compression encodings: gzip, br.",
    "schema": {"type": "string", "example": "gzip, br"},
}
_INSTANT = {"type": "string", "maxLength": 40, "format": "date-time", "pattern": "Z$"}
_CURSOR = {"type": "string", "maxLength": MAX_LENGTH, "pattern": "^[A-Za-z0-9_-]+$"}
_PAGE_SIZE = {"type": "integer", "minimum": MIN_PAGE, "maximum": MAX_PAGE, "default": MAX_PAGE}
_HISTORY_PARAMETERS = (
    _query("currency", {"type": "string", "enum": list(CURRENCIES)}, "Only charges in this currency."),
    _query("cursor", _CURSOR, "nextCursor of the page before; send nothing else beside it."),
    _query("startTimestamp", _INSTANT, "First instant, inclusive."),
    _query("endTimestamp", _INSTANT, "Last instant, exclusive."),
    _query("pageSize", _PAGE_SIZE, "Entries per page."),
)

_PAYMENT = {
    "name": "PAYMENT-SIGNATURE",
    "in": "header",
    "required": False,
    "description": "Base64 of an x402 payment payload. X-402-Payment and X-PAYMENT are accepted too.",
    "schema": {"type": "string", "maxLength": MAX_PAYMENT_HEADER},
}
_WALLET = _path("wallet", "An EVM or Solana wallet address.")
_PAGE_PARAMETERS = (
    _query(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_TRANSACTIONS, "default": DEFAULT_PAGE},
        "Entries.",
    ),
    _query(
        "offset", {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET, "default": 0}, "Entries to skip."
    ),
)

OPERATIONS = (
    Operation(
        "post", "/embeddings", "createEmbedding", "Embeddings", "Create embeddings for the supplied input",
        schemas.CreateEmbeddingResponse, schemas.CreateEmbeddingRequest, (_ACCEPT_ENCODING, _IDEMPOTENCY_KEY),
        errors=(401, 402, 409, 413, 415, 429, 500, 503, 504), openai_errors=(404,),
        headers=("x-balance-remaining", "payment-response"), error_headers=("payment-response",),
    ),
    Operation(
        "get", "/models", "listModels", "Models", "List the models that are served", schemas.ModelList,
        parameters=(_query("type", {"type": "string", "enum": list(get_args(schemas.ModelType))}, "Default: all."),),
        errors=_ACCOUNT_ERRORS, security="optional",
    ),
    Operation(
        "get", "/models/{model_id}", "getModel", "Models", "Describe one model; ids may contain slashes",
        schemas.ModelResponse, parameters=(_path("model_id", "A model's id or alias."),),
        errors=(404, *_ACCOUNT_ERRORS), security="optional",
    ),
    Operation(
        "get", "/billing/balance", "getBillingBalance", "Billing", "The credit that is left",
        account.BillingBalance, errors=_ACCOUNT_ERRORS,
    ),
    Operation(
        "get", "/billing/usage-history", "getBillingUsageHistory", "Billing",
        "Charges, oldest first, in pages; CSV where Accept asks for text/csv", account.UsageHistory,
        parameters=_HISTORY_PARAMETERS, errors=_ACCOUNT_ERRORS, text_types=("text/csv",),
        headers=("content-disposition", "x-next-cursor"),
    ),
    Operation(
        "post", "/x402/top-up", "topUpX402Balance", "x402",
        "Top up with a USDC payment in the PAYMENT-SIGNATURE header; without one, learn how to pay",
        x402.TopUpResponse, parameters=(_PAYMENT,), errors=(404, 409, 429, 500, 503, 504),
        other_answers={402: x402.TopUpDiscovery}, security="none", headers=("payment-response",),
        own_errors=dict.fromkeys((400, 409, 500, 504), x402.PaymentError),
    ),
    Operation(
        "get", "/x402/balance/{wallet}", "getX402Balance", "x402", "The signed-in wallet's credit",
        x402.WalletBalanceResponse, parameters=(_WALLET,), errors=(403, 404, *_ACCOUNT_ERRORS),
    ),
    Operation(
        "get", "/x402/transactions/{wallet}", "getX402Transactions", "x402",
        "The signed-in wallet's history, newest first", x402.WalletTransactionsResponse,
        parameters=(_WALLET, *_PAGE_PARAMETERS), errors=(403, 404, *_ACCOUNT_ERRORS),
    ),
    Operation(
        "get", "/api_keys", "getApiKeys", "API Keys", "List the account's active keys (ADMIN)",
        account.ApiKeyList, errors=_ADMIN_ERRORS,
    ),
    Operation(
        "post", "/api_keys", "createApiKey", "API Keys",
        f"Create a key (ADMIN): at most {CREATIONS.amount} a minute and {MAX_ACTIVE_KEYS} active ones per account",
        account.CreateApiKeyResponse, account.CreateApiKeyRequest, errors=(413, 415, *_ADMIN_ERRORS),
    ),
    Operation(
        "delete", "/api_keys", "deleteApiKey", "API Keys", "Revoke a key (ADMIN)", account.Success,
        parameters=(_query("id", {"type": "string", "minLength": 1}, "The key's id.", required=True),),
        errors=(404, *_ADMIN_ERRORS),
    ),
    Operation(
        "get", "/api_keys/rate_limits", "getApiKeyRateLimits", "API Keys", "The caller's limits and credit",
        account.RateLimitsResponse, errors=_ACCOUNT_ERRORS,
    ),
    Operation(
        "get", "/api_keys/generate_web3_key", "getApiKeyGenerateWeb3Key", "API Keys",
        "A challenge for a wallet to sign", x402.Web3ChallengeResponse, errors=(404, 429, 500, 503), security="none",
    ),
    Operation(
        "post", "/api_keys/generate_web3_key", "postApiKeyGenerateWeb3Key", "API Keys",
        "Create a key that spends the credit of the wallet that signed: "
        f"at most {FREE_CREATIONS.amount} a minute from one address",
        account.CreateApiKeyResponse,
        x402.GenerateWeb3KeyRequest, errors=(401, 404, 413, 415, 429, 500, 503), security="none",
    ),
    Operation(
        "get", "/api_keys/{key_id}", "getApiKeyById", "API Keys", "Describe one key (ADMIN)",
        account.ApiKeyResponse, parameters=(_path("key_id", "The key's id."),), errors=(404, *_ADMIN_ERRORS),
    ),
    Operation(
        "get", "/health", "health", "Operations", "The process is alive", schemas.Status,
        security="none", is_api=False,
    ),
    Operation(
        "get", "/ready", "ready", "Operations", "Whether requests should come here", schemas.Status,
        other_answers={503: schemas.Status}, security="none", is_api=False,
    ),
    Operation(
        "get", "/metrics", "metrics", "Operations", "Prometheus metrics", None,
        text_types=("text/plain",), security="none", is_api=False,
    ),
)  # fmt: skip
