"""Cross-origin requests (the Fetch standard's CORS protocol), for the origins that an operator names."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

READABLE = (
    "payment-required",
    "payment-response",
    "retry-after",
    "x-balance-remaining",
    "x-next-cursor",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
)
"""Headers of answers that a page may read beside those that it always may."""


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """``app`` for pages of these origins too. Credentials go in headers that the page sets, never in cookies."""
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=READABLE,
    )
