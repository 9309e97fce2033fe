"""One engine replica: the same fair queue and engine as in a single process, behind a frame of bytes."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from vectoll import __version__
from vectoll.adapters.engines.ray.frames import (
    MEDIA_TYPE,
    BadFrame,
    Outcome,
    Question,
    decode_question,
    encode_answer,
    encode_difference,
    encode_refusal,
)
from vectoll.adapters.engines.ray.marks import differences, marks_of
from vectoll.bootstrap import open_tracer
from vectoll.core.batching.batcher import Batcher
from vectoll.core.tracing import TracedMetrics, Tracer
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.errors import AtCapacity, Draining, VectollError
from vectoll.engines import LoadedEngine, load_engine, precision_of
from vectoll.ports.metrics import NoMetrics
from vectoll.settings import EngineSettings, QueueSettings, TracingSettings

MAX_QUESTION_BYTES = 64 * 2**20

log = logging.getLogger(__name__)

Load = Callable[[ModelSpec, EngineSettings], LoadedEngine]
"""Blocks. Raises ModelOffline, ConfigurationError, and whatever an engine raises."""


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """All that a replica must know. Holds no secret."""

    spec: ModelSpec
    engine: EngineSettings
    queue: QueueSettings
    tracing: TracingSettings
    secret_digest: bytes = b""
    """SHA-256 of what gateways outside the cluster must know; empty lets in none."""
    version: str = __version__


class EngineReplica:
    """The class that Serve deploys. Batches the questions of many gateways, fairly among their callers."""

    def __init__(self, plan: ReplicaPlan, load: Load = load_engine) -> None:
        """On the event loop that will answer. Raises RuntimeError when this node has another vectoll."""
        if plan.version != __version__:
            raise RuntimeError(
                f"this node has vectoll {__version__}, the deployment is for {plan.version}: install the same"
            )
        self._plan = plan
        self._marks = marks_of(plan.spec, precision_of(plan.spec, plan.engine))
        self._stack = AsyncExitStack()
        loaded = load(plan.spec, plan.engine)
        self._vocab_size = loaded.vocab_size
        self._batcher = Batcher(
            loaded.engine,
            loaded.shape,
            model=plan.spec.id,
            max_queue_tokens=plan.queue.max_tokens,
            max_wait_s=plan.queue.max_wait_s,
            metrics=TracedMetrics(NoMetrics()),
        )
        self._tracer: Tracer | None = None
        self._opening_tracer = asyncio.ensure_future(self._open_tracer())

    async def answer(self, question: bytes) -> bytes:
        """Frame in, frame out (``adapters.engines.ray.frames``). Raises nothing that a gateway must know of."""
        try:
            asked = decode_question(question)
            if names := differences(asked.marks, self._marks):
                reason = f"the gateway has another {', '.join(names)}"
                log.warning("question_refused", extra={"reason": reason})
                return encode_difference(names)
            self._check(asked)
        except BadFrame as problem:
            log.warning("question_refused", extra={"reason": str(problem)})
            return encode_refusal(Outcome.REFUSED)
        try:
            with self._traced(asked.headers):
                vectors = await self._batcher.compute(asked.sequences, asked.caller)
        except AtCapacity as full:
            return encode_refusal(Outcome.FULL, full.retry_after_s or 1)
        except Draining:
            return encode_refusal(Outcome.LEAVING)
        except VectollError:
            return encode_refusal(Outcome.FAILED)
        return encode_answer(vectors, self._plan.spec.dims)

    async def _open_tracer(self) -> None:
        """For as long as the process lives."""
        self._tracer = await self._stack.enter_async_context(open_tracer(self._plan.tracing))

    async def check_health(self) -> None:
        """Serve's hook. Raises where tracing could not be set up: the replica is then replaced, and Serve shows why."""
        await self._opening_tracer

    def _traced(self, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        """Go on with the gateway's trace, where there is one."""
        return self._tracer.trace("embed", headers) if self._tracer and headers else nullcontext()

    def _check(self, asked: Question) -> None:
        """Keep out what an engine would fail on, and with it the others in its batch. Raises BadFrame."""
        for sequence in asked.sequences:
            if len(sequence) > self._plan.spec.max_tokens:
                raise BadFrame(f"a sequence of {len(sequence)} tokens, {self._plan.spec.max_tokens} at most")
            if min(sequence) < 0 or max(sequence) >= self._vocab_size:
                raise BadFrame("a token id outside the vocabulary")

    async def __call__(self, request: Request) -> Response:
        """The same over HTTP, for gateways outside the cluster that know the secret."""
        if not self._is_trusted(request.headers.get("authorization", "")):
            return Response(status_code=401)
        if request.method != "POST":
            return Response(status_code=405)
        question = bytearray()
        async for chunk in request.stream():
            question += chunk
            if len(question) > MAX_QUESTION_BYTES:
                return Response(status_code=413)
        return Response(await self.answer(bytes(question)), media_type=MEDIA_TYPE)

    def _is_trusted(self, authorization: str) -> bool:
        """Compares digests, in constant time. Never true where there is no secret."""
        scheme, _, secret = authorization.partition(" ")
        given = hashlib.sha256(secret.encode()).digest()
        return scheme.lower() == "bearer" and hmac.compare_digest(given, self._plan.secret_digest)
