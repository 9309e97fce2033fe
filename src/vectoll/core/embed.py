"""The one flow of a request, from validated input to charged vectors (DESIGN.md, steps 4 to 10)."""

import asyncio
import time
from dataclasses import dataclass

from vectoll.core.admission import Permit
from vectoll.core.billing import Billing
from vectoll.core.models import ModelRegistry
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import EmbeddingRequest, Embeddings
from vectoll.domain.errors import InvalidRequest, ModelNotPermitted
from vectoll.domain.identity import Principal
from vectoll.domain.ids import ModelId, RequestId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import Quote
from vectoll.ports.metrics import Metrics, Stage
from vectoll.ports.model import BilledUsage


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
        """Embed and charge. Every way out but a return leaves the caller uncharged, unless a provider was paid for
        what the caller does not wait for, or for what came beside an input that it refuses.

        Raises any error of ``vectoll.domain.errors`` below InvalidRequest, Unauthenticated, PaymentRequired,
        IdempotencyConflict, RateLimited, InferenceFailed or Unavailable.
        """
        spec = self._models.resolve(request.model)
        await permit.take_request(spec.id)
        _check(principal, request, spec)
        model = await self._models.get(spec)
        watch = Stopwatch(self._metrics, spec.id)
        encodings = await model.tokenize(request.inputs, permit.caller)
        watch.lap("tokenize")
        quote = Quote(spec.id, sum(e.token_count for e in encodings), spec.price)
        await permit.take_tokens(spec.id, quote.tokens)
        async with self._billing.hold(principal, quote, request, request_id, idempotency_key) as hold:
            watch.lap("hold")
            try:
                embeddings = await model.embed(encodings, dimensions=request.dimensions, caller=permit.caller)
            except (asyncio.CancelledError, InvalidRequest) as error:
                if isinstance(billed := error.__cause__, BilledUsage):
                    await hold.charge_undelivered(billed.usage, is_whole=billed.is_whole)
                raise
            watch.lap("encode")
            charge = await hold.charge(embeddings.usage)
            watch.lap("charge")
        self._metrics.embedded(spec.id, len(encodings), embeddings.usage.prompt_tokens)
        return EmbedResult(spec, embeddings, charge)


class Stopwatch:
    """Reports how long each stage of a request took."""

    __slots__ = ("_metrics", "_model", "_started")

    def __init__(self, metrics: Metrics, model: ModelId) -> None:
        self._metrics = metrics
        self._model = model
        self._started = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """One stage is over, and the next begins."""
        now = time.perf_counter()
        self._metrics.stage(self._model, stage, now - self._started)
        self._started = now


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
    raise InvalidRequest.of(("dimensions",), f"the model '{spec.id}' has vectors of {allowed} dimensions")
