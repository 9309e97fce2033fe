"""The bodies on the wire, as types: what is decoded, what is encoded, and what /openapi.json is made from.

Names are the wire's own, so some are in camel case.
"""

from decimal import Decimal
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from vectoll.domain.catalog import Pooling, Privacy
from vectoll.domain.embedding import MAX_INPUTS, EncodingFormat

MAX_INT = 2**31 - 1
"""The largest token id or size that any model could mean."""

_Text = Annotated[str, Meta(min_length=1)]
_TokenId = Annotated[int, Meta(ge=0, le=MAX_INT)]
TokenIds = Annotated[list[_TokenId], Meta(min_length=1)]
Item = _Text | _TokenId | TokenIds
_Items = Annotated[list[Item], Meta(min_length=1, max_length=MAX_INPUTS)]


def _array_of(items: dict[str, Any], title: str, **limits: int) -> dict[str, Any]:
    return {"type": "array", "title": title, "items": items, "minItems": 1, **limits}


_TEXT_SCHEMA = {"type": "string", "minLength": 1}
INPUT_SCHEMA = {
    "description": "What to embed: text or token ids, one input or up to 2048. An array of integers is one input.",
    "examples": ["The quick brown fox jumped over the lazy dog"],
    "anyOf": [
        {**_TEXT_SCHEMA, "title": "string"},
        _array_of(_TEXT_SCHEMA, "array of strings", maxItems=MAX_INPUTS),
        _array_of(
            {"type": "integer", "minimum": 1, "maximum": MAX_INT}, "array of token ids", maxItems=MAX_INPUTS
        ),
        _array_of(
            _array_of({"type": "integer", "minimum": 0, "maximum": MAX_INT}, "token ids"),
            "array of token-id arrays",
            maxItems=MAX_INPUTS,
        ),
    ],
}
"""The four forms of ``input``: more than a type can say."""


class CreateEmbeddingRequest(Struct, forbid_unknown_fields=True):
    """The body of POST /embeddings. null stands for an optional field that is left out."""

    model: Annotated[str, Meta(min_length=1, description="ID of the model: see GET /models.")]
    input: _Text | _Items  # an array's items are of one kind: see INPUT_SCHEMA
    dimensions: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_INT)] | None,
        Meta(description="Size of the vectors, where the model offers a choice."),
    ] = None
    encoding_format: Annotated[
        EncodingFormat | None,
        Meta(description="base64 is the vector's little-endian float32 bytes. null and absent are float."),
    ] = None
    user: Annotated[str | None, Meta(description="Ignored; accepted for compatibility.")] = None


class EmbeddingObject(Struct):
    """One vector. ``index`` is the input's place in the request."""

    embedding: Annotated[list[float] | str, Meta(description="An array of numbers, or base64 if asked for.")]
    index: int
    object: Literal["embedding"]


class EmbeddingUsage(Struct):
    """The model's real tokens, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class CreateEmbeddingResponse(Struct):
    """The answer of POST /embeddings, one object per input, in order."""

    data: list[EmbeddingObject]
    model: str
    object: Literal["list"]
    usage: EmbeddingUsage


class StandardError(Struct):
    """An error under /api/v1."""

    error: str
    code: str


class DetailedError(Struct):
    """An error in the request itself: ``details`` nests messages under ``_errors`` by field."""

    error: str
    code: str
    details: dict[str, Any]


class OpenAIErrorObject(Struct):
    """What OpenAI's clients read."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """An error under /v1."""

    error: OpenAIErrorObject


class UnitPrice(Struct):
    """Dollars per million tokens; a DIEM is worth a dollar."""

    usd: Decimal
    diem: Decimal


class Pricing(Struct):
    """Embeddings are priced by input alone."""

    input: UnitPrice
    output: UnitPrice


class ModelDetails(Struct):
    """``model_spec``: how a model reads, what it returns, what it costs."""

    name: str
    privacy: Privacy
    offline: bool
    pricing: Pricing
    embeddingDimensions: int
    maxInputTokens: int
    supportsCustomDimensions: bool
    pooling: Pooling


class ModelResponse(Struct):
    """One model: the neighbours' shape, and a superset of OpenAI's."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    type: Literal["embedding"]
    model_spec: ModelDetails


ModelType = Literal[
    "asr", "embedding", "image", "music", "text", "tts", "upscale", "inpaint", "video", "all", "code"
]


class ModelList(Struct):
    """The answer of GET /models."""

    data: list[ModelResponse]
    object: Literal["list"]
    type: ModelType


class Status(Struct, omit_defaults=True):
    """The answer of GET /health and /ready."""

    status: str
    reason: str | None = None
