"""The HTTP application: its routes and its middleware, on one screen."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import Lifespan

from vectoll.http.compression import CompressionMiddleware
from vectoll.http.docs import render_docs
from vectoll.http.errors import EXCEPTION_HANDLERS
from vectoll.http.middleware import (
    AccessLogMiddleware,
    LimitsMiddleware,
    RequestIdMiddleware,
    SecurityHeadersMiddleware,
    UnexpectedErrorMiddleware,
)
from vectoll.http.openapi import openapi_document
from vectoll.http.record import BASES
from vectoll.http.responses import json_bytes
from vectoll.http.routes import api_keys, billing, embeddings, models, operations, web3_key, x402
from vectoll.http.services import Services

API = (
    ("POST", "/embeddings", embeddings.create_embedding),
    ("GET", "/models", models.list_models),
    ("GET", "/models/{model_id:path}", models.get_model),
    ("GET", "/billing/balance", billing.get_balance),
    ("GET", "/billing/usage-history", billing.get_usage_history),
    ("POST", "/x402/top-up", x402.top_up),
    ("GET", "/x402/balance/{wallet}", x402.get_balance),
    ("GET", "/x402/transactions/{wallet}", x402.get_transactions),
    ("GET", "/api_keys", api_keys.list_keys),
    ("POST", "/api_keys", api_keys.create_key),
    ("DELETE", "/api_keys", api_keys.delete_key),
    ("GET", "/api_keys/rate_limits", api_keys.get_rate_limits),
    ("GET", "/api_keys/generate_web3_key", web3_key.get_challenge),
    ("POST", "/api_keys/generate_web3_key", web3_key.generate_key),
    ("GET", "/api_keys/{key_id}", api_keys.get_key),
)
"""Served under both base paths."""

OPERATIONS = (
    ("GET", "/health", operations.health),
    ("GET", "/ready", operations.ready),
    ("GET", "/metrics", operations.metrics),
    ("GET", "/openapi.json", operations.openapi),
    ("GET", "/docs", operations.docs),
)


def create_app(services: Services, lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """The ASGI application. ``lifespan`` is the composition root's own start and stop."""
    routes = [
        *(Route(base + path, endpoint, methods=[method]) for method, path, endpoint in API for base in BASES),
        *(Route(path, endpoint, methods=[method]) for method, path, endpoint in OPERATIONS),
    ]
    middleware = [  # outermost first
        Middleware(RequestIdMiddleware),
        Middleware(AccessLogMiddleware, services.metrics),
        Middleware(SecurityHeadersMiddleware),
        Middleware(CompressionMiddleware, services.settings.compression_min_bytes, services.metrics),
        Middleware(LimitsMiddleware, services.admission),
        Middleware(UnexpectedErrorMiddleware),
    ]
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers=EXCEPTION_HANDLERS, lifespan=lifespan
    )
    app.router.redirect_slashes = False  # a POST that is redirected loses its body in many clients
    document = openapi_document(services.settings.public_url, [spec.id for spec in services.models.specs])
    app.state.services = services
    app.state.started_at = int(services.clock.now().timestamp())
    app.state.openapi_json = json_bytes(document)
    app.state.docs_html = render_docs(document)
    return app
