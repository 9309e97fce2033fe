"""What operators and their machines ask for: /health, /ready, /metrics, /openapi.json, /docs."""

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vectoll.http.docs import HERE
from vectoll.http.responses import json_response
from vectoll.http.schemas import Status
from vectoll.http.services import Phase, Services, services_of

_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


async def health(_: Request) -> Response:
    """The process is alive."""
    return json_response(Status("ok"))


async def ready(request: Request) -> Response:
    """Whether requests should come here: 503 until the models are loaded, while draining, and while none could be
    answered, with the reason.
    """
    services = services_of(request)
    phase = services.readiness.phase
    if phase is not Phase.READY:
        return json_response(Status(phase.value), 503)
    reason = _why_nothing_is_served(services)
    return json_response(
        Status("unavailable", reason) if reason else Status(phase.value), 503 if reason else 200
    )


def _why_nothing_is_served(services: Services) -> str | None:
    if services.readiness.is_store_lost():
        return "the database cannot be reached"
    why_none = services.models.why_none
    return f"no model can be served: {why_none}" if why_none else None


async def metrics(request: Request) -> Response:
    """Prometheus's text format."""
    return Response(
        services_of(request).metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


async def openapi(request: Request) -> Response:
    """The OpenAPI document, made when the application was."""
    return Response(request.scope["app"].openapi_json, media_type="application/json")


async def docs(request: Request) -> Response:
    """The same document for people: a page that loads nothing from anywhere."""
    here = escape(str(request.base_url).rstrip("/"))
    page = request.scope["app"].docs_html.replace(HERE, here)
    return HTMLResponse(page, headers={"content-security-policy": _DOCS_POLICY})
