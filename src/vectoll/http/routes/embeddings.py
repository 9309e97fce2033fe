"""POST /embeddings."""

import time

from starlette.requests import Request
from starlette.responses import Response

from vectoll.domain.embedding import EmbeddingRequest
from vectoll.domain.errors import VectollError
from vectoll.http.asking import wallet_headers
from vectoll.http.body import read_json_body
from vectoll.http.disconnect import CancelledOnDisconnect
from vectoll.http.entry import admit_to_inference, idempotency_key_of
from vectoll.http.record import record_of
from vectoll.http.serialisation import write_embeddings
from vectoll.http.services import services_of
from vectoll.http.validation import parse_embedding_request


async def create_embedding(request: Request) -> Response:
    """Read, embed, charge, write. A client that leaves on the way is not charged."""
    services, record = services_of(request), record_of(request.scope)
    principal, permit = await admit_to_inference(request)
    with permit:
        try:
            idempotency_key = idempotency_key_of(request)
            wanted = await _read(request)
        except VectollError:
            # what names no model that is served counts against a bucket of its own
            await permit.take_request()
            raise
        async with CancelledOnDisconnect(request.receive):
            result = await services.embed.embed(principal, permit, wanted, record.request_id, idempotency_key)
        record.tokens = result.embeddings.usage.prompt_tokens
        started = time.perf_counter()
        body = await write_embeddings(result, wanted.encoding_format)
        services.metrics.stage(result.model.id, "serialise", time.perf_counter() - started)
    return Response(body, headers=await wallet_headers(request), media_type="application/json")


async def _read(request: Request) -> EmbeddingRequest:
    services = services_of(request)
    body = await read_json_body(request, services.settings.limits.max_body_bytes)
    wanted = parse_embedding_request(body)
    record_of(request.scope).model = services.models.resolve(wanted.model).id
    return wanted
