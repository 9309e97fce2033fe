"""A model's replicas as one backend: split, shared out fairly, retried, verified."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass

from vectoll.adapters.engines.ray.frames import (
    BadFrame,
    Outcome,
    Question,
    decode_difference,
    decode_vectors,
    encode_question,
    outcome_of,
)
from vectoll.adapters.engines.ray.marks import Marks
from vectoll.adapters.engines.ray.parts import split
from vectoll.adapters.engines.ray.routes import Full, NotServed, Route, Unreachable
from vectoll.core.gate import FairGate
from vectoll.core.parts import for_each
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import (
    AtCapacity,
    Draining,
    InferenceFailed,
    ModelOffline,
    Unavailable,
    VectollError,
)
from vectoll.domain.identity import NOBODY, Caller

PARALLEL_PARTS = 16
"""Parts that one request may have under way; the rest follow."""

MAX_TRIES = 3
"""Times that one part is sent. A part that kills its replica kills no more than this many."""

CHECK_TIMEOUT_S = 5.0
"""Longest time in which replicas are asked, when a model is loaded, whether they compute the same."""

PAUSE_S = 0.05
"""Before the second try; twice as long before the third."""

Onward = Callable[[str], AbstractContextManager[Mapping[str, str]]]
"""Names a call to another process; gives the headers that carry its trace there."""

NO_MARKS: Marks = {}

log = logging.getLogger(__name__)


def untraced(_: str) -> AbstractContextManager[Mapping[str, str]]:
    """No headers."""
    return nullcontext({})


@dataclass(frozen=True, slots=True)
class Tuning:
    """How much is under way at once, and for how long."""

    part_tokens: int
    parts_in_flight: int
    max_queued: int
    max_wait_s: float
    """Longest wait of a part for its turn."""
    timeout_s: float
    """Longest time for one try of one part."""


class ClusterBackend:
    """Implements ``ports.engine.Backend`` over a route. Computing is pure, so asking twice is safe; nothing is charged
    here.
    """

    def __init__(
        self,
        spec: ModelSpec,
        route: Route,
        tuning: Tuning,
        onward: Onward = untraced,
        marks: Marks = NO_MARKS,
    ) -> None:
        """Only replicas with these ``marks`` are let compute."""
        self._spec = spec
        self._marks = marks
        self._route = route
        self._tuning = tuning
        self._onward = onward
        self._gate = FairGate(tuning.parts_in_flight, tuning.max_queued, tuning.max_wait_s)
        self._scopes: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._is_closing = False

    async def check(self) -> None:
        """Raises ModelOffline where replicas were deployed with other settings, or none were. No answer in a few
        seconds says nothing: each question is checked again.
        """
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await self.compute([[0]], NOBODY)
        except ModelOffline:
            raise
        except (VectollError, TimeoutError) as problem:
            log.warning("replicas_not_checked", extra={"model": self._spec.id, "reason": _reason(problem)})

    async def compute(self, sequences: Sequence[Sequence[int]], caller: Caller) -> Sequence[Vector]:
        """See the port. Raises ModelOffline, too, and Unavailable when no replica answers."""
        if self._is_closing:
            raise Draining
        scope = asyncio.timeout(None)  # it never expires, unless ``close`` makes it
        self._scopes.add(scope)
        self._idle.clear()
        try:
            async with scope:
                parts = list(split(sequences, self._tuning.part_tokens))
                if len(parts) == 1:
                    return await self._compute_part(sequences, caller)
                return await self._compute_parts(parts, sequences, caller)
        except TimeoutError:
            raise Draining from None
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._idle.set()

    async def _compute_parts(
        self, parts: Sequence[Sequence[int]], sequences: Sequence[Sequence[int]], caller: Caller
    ) -> list[Vector]:
        """A few parts at a time, each the positions of its sequences."""

        async def compute(positions: Sequence[int]) -> list[Vector]:
            return await self._compute_part([sequences[p] for p in positions], caller)

        found = await for_each(parts, compute, at_once=PARALLEL_PARTS)
        vectors: dict[int, Vector] = {}
        for positions, of_part in zip(parts, found, strict=True):
            vectors.update(zip(positions, of_part, strict=True))
        return [vectors[position] for position in range(len(sequences))]

    async def _compute_part(self, sequences: Sequence[Sequence[int]], caller: Caller) -> list[Vector]:
        """Ask until a replica gives what was asked for, at most ``MAX_TRIES`` times."""
        failure: VectollError | None = None
        for trial in range(MAX_TRIES):
            if trial:
                await asyncio.sleep(PAUSE_S * trial)
            try:
                async with self._gate.slot(caller):
                    answer = await self._ask(sequences, caller)
                return self._read(answer, len(sequences))
            except NotServed as problem:  # there may be several clusters
                failure = ModelOffline(self._spec.id, str(problem))
            except Full as problem:
                failure = AtCapacity(problem.retry_after_s)
            except _Different as problem:  # others may have been replaced already
                log.warning("replica_differs", extra={"model": self._spec.id, "reason": str(problem)})
                failure = ModelOffline(self._spec.id, f"its replicas were deployed with another {problem}")
            except (Unreachable, TimeoutError) as problem:
                log.warning("replica_lost", extra={"model": self._spec.id, "reason": _reason(problem)})
                failure = Unavailable("The model's replicas do not answer. Nothing was charged.", 1)
            except BadFrame as problem:
                log.error("replica_answer_bad", extra={"model": self._spec.id, "reason": str(problem)})  # noqa: TRY400 - no trace: it names nothing else
                failure = InferenceFailed()
        assert failure is not None
        raise failure

    async def _ask(self, sequences: Sequence[Sequence[int]], caller: Caller) -> bytes:
        with self._onward("replica") as headers:
            question = encode_question(Question(sequences, caller, headers, self._marks))
            async with asyncio.timeout(self._tuning.timeout_s):
                return await self._route.ask(question)

    def _read(self, answer: bytes, count: int) -> list[Vector]:
        """The vectors, verified. Raises BadFrame, and what the replica says instead of vectors."""
        outcome, retry_after_s = outcome_of(answer)
        match outcome:
            case Outcome.OK:
                return decode_vectors(answer, count, self._spec.dims)
            case Outcome.FULL:
                raise Full(retry_after_s)
            case Outcome.LEAVING:
                raise Unreachable("it is shutting down")
            case Outcome.FAILED:
                raise InferenceFailed
            case Outcome.REFUSED:
                raise BadFrame("a refusal: gateway and replica are not of the same kind")
            case Outcome.DIFFERENT:
                raise _Different(", ".join(decode_difference(answer)))

    async def close(self, drain_s: float = 0.0) -> None:
        """See the port."""
        self._is_closing = True
        if self._scopes:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._idle.wait()
        for scope in self._scopes:
            scope.reschedule(0.0)
        if self._scopes:
            await self._idle.wait()
        await self._route.close()


class _Different(Exception):
    """A replica has other settings; names them."""


def _reason(problem: Exception) -> str:
    return str(problem) or "it did not answer in time"
