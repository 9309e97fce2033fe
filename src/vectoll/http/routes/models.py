"""GET /models and GET /models/{id}."""

from typing import get_args

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.catalog import ModelSpec
from vectoll.domain.errors import InvalidRequest, NotFound, UnknownModel
from vectoll.http.entry import admit_anyone
from vectoll.http.record import speaks_openai
from vectoll.http.responses import json_response
from vectoll.http.schemas import ModelDetails, ModelList, ModelResponse, ModelType, Pricing, UnitPrice
from vectoll.http.services import services_of

OWNER = "vectoll"
"""``owned_by``. The neighbours' schema allows only their own name, which would be untrue here."""


async def list_models(request: Request) -> Response:
    """The models of one ``type``; all without. Only embedding models are served, so other types are empty."""
    with await admit_anyone(request):
        wanted = _wanted_type(request)
        specs = services_of(request).models.specs if wanted in ("all", "embedding") else ()
        return json_response(ModelList([_describe(request, spec) for spec in specs], "list", wanted))


async def get_model(request: Request) -> Response:
    """One model, by id or alias; ids may contain slashes."""
    with await admit_anyone(request):
        try:
            spec = services_of(request).models.resolve(request.path_params["model_id"])
        except UnknownModel as error:
            if speaks_openai(request.scope):
                raise
            raise NotFound(str(error)) from None
        return json_response(_describe(request, spec))


def _wanted_type(request: Request) -> ModelType:
    try:
        wanted: ModelType = msgspec.convert(request.query_params.get("type", "all"), ModelType)
    except msgspec.ValidationError:
        raise InvalidRequest.at(("type",), f"type must be one of {', '.join(get_args(ModelType))}") from None
    return wanted


def _describe(request: Request, spec: ModelSpec) -> ModelResponse:
    dollars = spec.price.usd_per_million
    return ModelResponse(
        id=spec.id,
        object="model",
        created=request.scope["app"].started_at,
        owned_by=OWNER,
        type="embedding",
        model_spec=ModelDetails(
            name=spec.name,
            privacy=spec.privacy,
            offline=services_of(request).models.offline_reason(spec) is not None,
            pricing=Pricing(input=UnitPrice(dollars, dollars), output=UnitPrice(0 * dollars, 0 * dollars)),
            embeddingDimensions=spec.dims,
            maxInputTokens=spec.max_tokens,
            supportsCustomDimensions=spec.supports_dimensions,
            pooling=spec.pooling,
        ),
    )
