"""What operators and their machines ask for: /health, /ready, /metrics, /openapi.json, /docs."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vectoll.http.responses import json_response
from vectoll.http.schemas import Status
from vectoll.http.services import Phase, services_of

_DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


async def health(_: Request) -> Response:
    """The process is alive."""
    return json_response(Status("ok"))


async def ready(request: Request) -> Response:
    """Whether requests should come here: 503 until the models are loaded, and while draining."""
    phase = services_of(request).readiness.phase
    return json_response(Status(phase.value), 200 if phase is Phase.READY else 503)


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
    return HTMLResponse(request.scope["app"].docs_html, headers={"content-security-policy": _DOCS_POLICY})
