"""The OpenAPI 3.1 document, generated from the types that the routes decode and encode."""

from collections.abc import Sequence
from typing import Any

import msgspec

from vectoll import __version__
from vectoll.http import schemas, schemas_account, schemas_x402
from vectoll.http.errors import MAX_RETRY_AFTER_S
from vectoll.http.openapi_operations import OPERATIONS, Operation
from vectoll.http.record import BASES, OPENAI_BASE, SPEC_BASE

_DESCRIPTION = """\
Create embeddings, metered and billed. The same service answers under two base paths: `/api/v1`, whose errors are
`{"error": "...", "code": "..."}` (with `details` where the request is wrong), and `/v1`, whose errors are OpenAI's
`{"error": {"message", "type", "param", "code"}}`.
"""

_STATUS_TEXT = {
    200: "OK",
    400: "The request is wrong; `details` names each field",
    401: "Authentication failed, or the model is for Pro users only",
    402: "The request costs more than the account's credit, or than the key's spend limit leaves",
    403: "This needs an ADMIN key; to create keys, one without a spend limit",
    404: "No such thing",
    408: "Nothing more of the request came for too long, or its body took too long as a whole",
    409: "The Idempotency-Key was used for a different request, repeated too often, or is a day old",
    413: "The request body is too large",
    414: "The request line is too long",
    415: "The request body is not application/json in UTF-8, or is compressed",
    429: "Too many requests, tokens or failures; Retry-After says when to come back",
    431: "The headers are too long",
    500: "Inference or the server failed; nothing was charged",
    501: "The method, or a transfer coding, is not known",
    503: "At capacity, offline or shutting down; Retry-After where it is known",
    504: "The payment was submitted and its outcome is not known yet: do not pay again",
    505: "This version of HTTP is not spoken",
}

_UNREAD = (408, 414, 431, 501, 505)
"""The answers to what is no whole request, beside 400. Any operation may have been meant."""

_COUNT = {"type": "integer", "minimum": 0}
_SECONDS = {"type": "string", "pattern": "^[0-9]+s?$", "example": "60"}
_LIMIT_HEADERS = {
    f"x-ratelimit-{what}-{unit}": {"description": f"{text} {unit} per minute.", "schema": schema}
    for unit in ("requests", "tokens")
    for what, text, schema in (
        ("limit", "The limit of", _COUNT),
        ("remaining", "What is left of", _COUNT),
        (
            "reset",
            f"Seconds (under {OPENAI_BASE} with their unit, `60s`) until the window is fresh:",
            _SECONDS,
        ),
    )
}

_HEADERS = {
    "x-request-id": {"description": "The request's id, in every answer.", "schema": {"type": "string"}},
    "retry-after": {
        "description": "Whole seconds to wait.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_RETRY_AFTER_S},
    },
    "www-authenticate": {"description": "How to come with an API key.", "schema": {"type": "string"}},
    "accept-encoding": {
        "description": "That a body must come as it is, where one was compressed.",
        "schema": {"type": "string", "enum": ["identity"]},
    },
    "content-disposition": {
        "description": "The file name of a page as CSV, stamped with the time of its export.",
        "schema": {"type": "string"},
    },
    "x-next-cursor": {
        "description": "nextCursor of a page as CSV; absent from the last.",
        "schema": {"type": "string"},
    },
    "payment-required": {
        "description": "Base64 of an x402 payment-required object, where wallets can pay.",
        "schema": {"type": "string"},
    },
    "payment-response": {
        "description": "Base64 of an x402 settlement object, where this request's payment was credited.",
        "schema": {"type": "string"},
    },
    "x-balance-remaining": {
        "description": "Prepaid credit that is left, in USD; only for a wallet that signed in or paid.",
        "schema": {"type": "string", "example": "4.230000"},
    },
    "content-encoding": {
        "description": "How the body is compressed.",
        "schema": {"type": "string", "enum": ["gzip", "br"]},
    },
    **_LIMIT_HEADERS,
}

_SECURITY_SCHEMES = {
    "BearerAuth": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An API key (`vtk_...`), or a JWT where the operator has configured keys for them.",
    },
    "siwx": {
        "type": "apiKey",
        "in": "header",
        "name": "SIGN-IN-WITH-X",
        "description": "Base64 of a signed sign-in message of an EVM or Solana wallet, where wallets can pay.",
    },
    "ApiKeyHeader": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The same API key."},
}
_REQUIRED: list[dict[str, list[str]]] = [{"BearerAuth": []}, {"ApiKeyHeader": []}, {"siwx": []}]


def openapi_document(public_url: str | None, models: Sequence[str]) -> dict[str, Any]:
    """The whole document. ``public_url`` is how clients reach the server; None is wherever they found this.

    ``models`` are the ids that are served, which the request's schema offers beside any other string.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vectoll",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": public_url or "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(op.tag for op in OPERATIONS)],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(models),
            "headers": _HEADERS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for base in BASES:
        for operation in OPERATIONS:
            if operation.is_api:
                paths.setdefault(base + operation.path, {})[operation.method] = _operation(operation, base)
    for operation in OPERATIONS:
        if not operation.is_api:
            paths.setdefault(operation.path, {})[operation.method] = _operation(operation, "")
    return paths


def _operation(operation: Operation, base: str) -> dict[str, Any]:
    is_openai = base == OPENAI_BASE
    document: dict[str, Any] = {
        "operationId": ("openai_" if is_openai else "") + operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": {"required": _REQUIRED, "optional": [{}, *_REQUIRED], "none": []}[operation.security],
        "responses": {"200": _answer(operation)},
    }
    if operation.parameters:
        document["parameters"] = list(operation.parameters)
    if operation.request is not None:
        body = {"application/json": {"schema": _ref(operation.request)}}
        document["requestBody"] = {"required": True, "content": body}
    errors = {400, *_UNREAD, *operation.errors, *(operation.openai_errors if is_openai else ())}
    answers = {status: _error_schema(status, base, operation.own_errors.get(status)) for status in errors}
    answers |= {status: _ref(body_type) for status, body_type in operation.other_answers.items()}
    for status, schema in sorted(answers.items()):
        answer = _json(_STATUS_TEXT[status], schema)
        document["responses"][str(status)] = answer | {"headers": _error_headers(status, operation)}
    return document


def _answer(operation: Operation) -> dict[str, Any]:
    content = {}
    if operation.response is not None:  # first: it is the form that generated clients read
        content["application/json"] = {"schema": _ref(operation.response)}
    content |= {media_type: {"schema": {"type": "string"}} for media_type in operation.text_types}
    headers = ["x-request-id", "content-encoding", *(_LIMIT_HEADERS if operation.is_api else ())]
    headers += operation.headers
    return {"description": _STATUS_TEXT[200], "content": content, "headers": _header_refs(headers)}


def _error_schema(status: int, base: str, own_type: type | None) -> dict[str, Any]:
    if base != SPEC_BASE:
        return _ref(schemas.OpenAIError)
    forms: list[type] = [schemas.DetailedError if status == 400 else schemas.StandardError]
    if own_type is not None:
        forms = [own_type, *forms] if status == 400 else [own_type]  # what is no request has no route
    if status == 402:
        forms += [schemas_x402.Discovery, schemas_x402.WalletPaymentRequired]
    return _ref(forms[0]) if len(forms) == 1 else {"anyOf": [_ref(form) for form in forms]}


def _error_headers(status: int, operation: Operation) -> dict[str, Any]:
    extra = {
        401: ["www-authenticate"],
        402: ["payment-required"],
        415: ["accept-encoding"],
        429: ["retry-after"],
        503: ["retry-after"],
    }.get(status, [])
    if status not in _UNREAD:
        extra += ["content-encoding", *(_LIMIT_HEADERS if operation.is_api else ()), *operation.error_headers]
    return _header_refs(["x-request-id", *extra])


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _header_refs(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _ref(body_type: type) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{body_type.__name__}"}


def _schemas(models: Sequence[str]) -> dict[str, Any]:
    """JSON Schemas of all the bodies. Amounts are numbers on the wire, where msgspec's default is a string."""
    types = [
        value
        for module in (schemas, schemas_account, schemas_x402)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value is not msgspec.Struct
    ]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    documented: dict[str, Any] = _decimals_as_numbers(components)
    request = documented[schemas.CreateEmbeddingRequest.__name__]["properties"]
    request["input"] = schemas.INPUT_SCHEMA
    model = request["model"]
    model["anyOf"] = [
        {"type": model.pop("type"), "minLength": model.pop("minLength")},
        {"enum": list(models)},
    ]
    return documented


def _decimals_as_numbers(node: Any) -> Any:
    if isinstance(node, dict):
        if node.get("format") == "decimal":
            return {"type": "number"}
        return {key: _decimals_as_numbers(value) for key, value in node.items()}
    return [_decimals_as_numbers(item) for item in node] if isinstance(node, list) else node
