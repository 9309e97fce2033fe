"""The HTTP application: its routes, and what wraps every one of them, on one screen."""

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vectoll.http.access_log import AccessLog
from vectoll.http.compression import Compression
from vectoll.http.docs import render_docs
from vectoll.http.errors import CLIENT_LEFT, answer_error, let_go, refuse_ambiguous
from vectoll.http.headers import add_security_headers
from vectoll.http.limits import LimitHeaders
from vectoll.http.openapi import openapi_document
from vectoll.http.record import BASES, begin_record
from vectoll.http.responses import json_bytes
from vectoll.http.routes import api_keys, billing, embeddings, models, operations, web3_key, x402
from vectoll.http.routing import Routes
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


class Application:
    """The ASGI application. What wraps an answer changes one Response, whole or still to be made, not its messages."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.started_at = int(services.clock.now().timestamp())
        document = openapi_document(services.settings.public_url, [spec.id for spec in services.models.specs])
        self.openapi_json = json_bytes(document)
        self.docs_html = render_docs(document)
        api = [(method, base + path, endpoint) for method, path, endpoint in API for base in BASES]
        self.routes = Routes([*api, *OPERATIONS])
        self._limits = LimitHeaders(services.admission)
        self._compression = Compression(services.settings.compression_min_bytes, services.metrics)
        self._access_log = AccessLog(services.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http", "the server is told to speak HTTP only, and has no lifespan to run"
        scope["app"] = self
        record = begin_record(scope)
        status = CLIENT_LEFT
        try:
            response = await self._answer(Request(scope, receive))
            response.raw_headers.append((b"x-request-id", record.request_id.encode()))
            add_security_headers(scope, response)
            await self._limits.add(scope, response)
            await self._compression.apply(record, response)
            status = response.status_code
            await response(scope, receive, send)
        except ClientDisconnect:  # in the middle of an answer that is streamed; what it paid for stays paid
            status = CLIENT_LEFT
        finally:
            if record.permit is not None:
                record.permit.leave()  # a streamed answer is in flight until here
            self._access_log.write(scope, record, status)

    async def _answer(self, request: Request) -> Response:
        try:
            endpoint = self.routes.find(request.scope)
            refuse_ambiguous(request)
            return await endpoint(request)
        except Exception as error:  # noqa: BLE001 - what is no error of ours is logged and answered as 500
            response = answer_error(request, error)
            let_go(error)
            return response
