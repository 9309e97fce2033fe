"""POST /embeddings."""

import asyncio
import time
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from vectoll.core.admission import Permit
from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import EmbeddingRequest, EncodingFormat
from vectoll.domain.errors import VectollError
from vectoll.http.disconnect import CancelledOnDisconnect
from vectoll.http.entry import (
    admit_to_inference,
    idempotency_key_of,
    may_be_large,
    read_callers_body,
    require_funds,
)
from vectoll.http.record import record_of
from vectoll.http.responses import JsonResponse, StreamedResponse
from vectoll.http.serialisation import STREAMED_BYTES, bytes_of_vectors, stream_embeddings, write_embeddings
from vectoll.http.services import services_of
from vectoll.http.token_arrays import LARGE_BYTES, has_token_arrays, read_token_arrays
from vectoll.http.validation import parse_embedding_request
from vectoll.http.wallet_answers import wallet_headers

_TOO_MUCH = "Send fewer inputs per request."


async def create_embedding(request: Request) -> Response:
    """Read, embed, charge, write. A client that leaves on the way is not charged, except for what was bought for it."""
    services, record = services_of(request), record_of(request.scope)
    principal, permit = await admit_to_inference(request)
    with permit:
        try:
            idempotency_key = idempotency_key_of(request)
            if may_be_large(request):
                await require_funds(request, principal)
            wanted = await _read(request, permit)
        except VectollError:
            # what names no model that is served counts against a bucket of its own
            await permit.take_request()
            raise
        async with CancelledOnDisconnect(request.receive):
            result = await services.embed.embed(principal, permit, wanted, record.request_id, idempotency_key)
        record.tokens = result.embeddings.usage.prompt_tokens
        response = await _answer(request, result, wanted.encoding_format)
        if isinstance(response, StreamedResponse):
            permit.outlast()
        return response


async def _answer(request: Request, result: EmbedResult, encoding_format: EncodingFormat) -> Response:
    """Whole where it is small, or where the client's HTTP/1.0 has no way to tell where a stream ends."""
    headers = await wallet_headers(request)
    measure = partial(services_of(request).metrics.stage, result.model.id)
    size = bytes_of_vectors(result)
    is_large = size > STREAMED_BYTES
    if is_large and request.scope["http_version"] != "1.0":
        pieces = stream_embeddings(result, encoding_format)
        return StreamedResponse(pieces, size, measure, headers)
    started = time.perf_counter()
    if is_large:
        body = await asyncio.to_thread(write_embeddings, result, encoding_format)
    else:
        body = write_embeddings(result, encoding_format)
    measure("serialise", time.perf_counter() - started)
    return JsonResponse(body, headers=headers)


async def _read(request: Request, permit: Permit) -> EmbeddingRequest:
    services = services_of(request)
    body = await read_callers_body(request, services.settings.limits.max_body_bytes, _TOO_MUCH)
    if len(body) > LARGE_BYTES and has_token_arrays(body):
        wanted = await read_token_arrays(body)
    else:
        wanted = parse_embedding_request(body)
    spec = services.models.resolve(wanted.model)
    record_of(request.scope).model = spec.id
    permit.hold_bytes(len(body) + 4 * spec.dims * len(wanted.inputs))
    return wanted
