"""The one flow of a request, from validated input to charged vectors (DESIGN.md, steps 4 to 10)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vectoll.core.admission import Permit
from vectoll.core.billing import Billing
from vectoll.core.models import ModelRegistry
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import EmbeddingRequest, Embeddings
from vectoll.domain.errors import InvalidRequest, ModelNotPermitted
from vectoll.domain.identity import Principal
from vectoll.domain.ids import RequestId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Quote
from vectoll.ports.metrics import Metrics


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What is delivered: vectors that have been paid for."""

    model: ModelSpec
    embeddings: Embeddings
    charge: Transfer


class EmbedService:
    """Embeds for a known caller, within limits, for the exact price."""

    def __init__(self, models: ModelRegistry, billing: Billing, metrics: Metrics) -> None:
        self._models = models
        self._billing = billing
        self._metrics = metrics

    async def embed(
        self,
        principal: Principal,
        permit: Permit,
        request: EmbeddingRequest,
        request_id: RequestId,
        idempotency_key: str | None = None,
    ) -> EmbedResult:
        """Embed and charge. Every way out but a return leaves the caller uncharged.

        Raises any error of ``vectoll.domain.errors`` below InvalidRequest, Unauthenticated, PaymentRequired,
        IdempotencyConflict, RateLimited, InferenceFailed or Unavailable.
        """
        spec = self._models.resolve(request.model)
        await permit.take_request(spec.id)
        _check(principal, request, spec)
        model = await self._models.get(spec)
        with self._timed(spec, "tokenize"):
            encodings = await model.tokenize(request.inputs)
        quote = Quote(spec.id, sum(e.token_count for e in encodings), spec.price)
        await permit.take_tokens(spec.id, quote.tokens)
        async with self._billing.hold(principal, quote, request, request_id, idempotency_key) as hold:
            with self._timed(spec, "encode"):
                embeddings = await model.embed(
                    encodings, dimensions=request.dimensions, caller=principal.caller
                )
            with self._timed(spec, "charge"):
                charge = await hold.charge(embeddings.usage)
        self._metrics.embedded(spec.id, len(encodings), embeddings.usage.prompt_tokens)
        return EmbedResult(spec, embeddings, charge)

    @contextmanager
    def _timed(self, spec: ModelSpec, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._metrics.stage(spec.id, stage, time.perf_counter() - started)


def _check(principal: Principal, request: EmbeddingRequest, spec: ModelSpec) -> None:
    """What can be refused from the model's specification alone."""
    if spec.pro_only and not principal.is_pro:
        raise ModelNotPermitted
    check_dimensions(spec, request.dimensions)


def check_dimensions(spec: ModelSpec, dimensions: int | None) -> None:
    """Raises InvalidRequest for a size that the model's vectors cannot have. None is the native one."""
    if dimensions is None or spec.accepts_dimensions(dimensions):
        return
    sizes = ", ".join(str(d) for d in sorted({*spec.matryoshka_dims, spec.dims}))
    allowed = f"{spec.min_dims} to {spec.dims}" if spec.matryoshka_any else sizes
    raise InvalidRequest.at(
        ("dimensions",), f"dimensions: the model '{spec.id}' has vectors of {allowed} dimensions"
    )
