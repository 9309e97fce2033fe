"""Answers in JSON."""

from typing import Any

import msgspec
from starlette.responses import Response

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def json_bytes(body: Any) -> bytes:
    """``body`` as JSON. Decimals become exact JSON numbers, never by way of a float."""
    return _ENCODER.encode(body)


def json_response(body: Any, status: int = 200) -> Response:
    """An answer of ``json_bytes(body)``."""
    return Response(json_bytes(body), status, media_type="application/json")
