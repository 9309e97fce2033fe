"""A replica without its cluster."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from starlette.requests import Request
from tests.fakes import SPEC

from vectoll.adapters.engines.ray.frames import (
    MEDIA_TYPE,
    Outcome,
    Question,
    decode_difference,
    decode_vectors,
    encode_question,
    outcome_of,
)
from vectoll.adapters.engines.ray.marks import marks_of
from vectoll.cluster.replica import MAX_QUESTION_BYTES, EngineReplica, ReplicaPlan
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.catalog import ModelSource, ModelSpec, Pooling, Precision
from vectoll.domain.embedding import Vector
from vectoll.domain.identity import Caller
from vectoll.domain.money import Price
from vectoll.engines import LoadedEngine, precision_of
from vectoll.settings import EngineSettings, QueueSettings, TracingSettings

SECRET = "only gateways know this"
PLAN = ReplicaPlan(
    SPEC, EngineSettings(), QueueSettings(), TracingSettings(), hashlib.sha256(SECRET.encode()).digest()
)


@dataclass
class FakeEngine:
    """The length of a sequence is the first number of its vector. ``go`` keeps batches waiting while it is clear."""

    go: threading.Event = field(default_factory=threading.Event)
    value: float | None = None
    error: Exception | None = None
    started: threading.Event = field(default_factory=threading.Event)
    batches: list[list[int]] = field(default_factory=list)
    streams = 1
    dims = SPEC.dims

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        stream: int,
        *,
        is_alone: bool = True,
        callers: Sequence[Caller] = (),
    ) -> Sequence[Vector]:
        self.batches.append([len(ids) for ids in batch])
        self.started.set()
        assert self.go.wait(10)
        if self.error:
            raise self.error
        rows = np.zeros((len(batch), self.dims), "<f4")
        rows[:, 0] = [len(ids) if self.value is None else self.value for ids in batch]
        return [row.data.toreadonly() for row in rows]

    def close(self) -> None:
        pass


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    engine.go.set()
    yield engine
    engine.go.set()


def replica_with(engine: FakeEngine, plan: ReplicaPlan = PLAN) -> EngineReplica:
    def load(_: ModelSpec, __: EngineSettings) -> LoadedEngine:
        return LoadedEngine(engine, BatchShape(100), vocab_size=1000, runtime="double")

    return EngineReplica(plan, load)


def question(*sequences: Sequence[int], caller: str = "key_1") -> bytes:
    return encode_question(Question(sequences, Caller.keyless(caller)))


async def test_vectors_are_in_order_of_the_sequences(engine: FakeEngine) -> None:
    answer = await replica_with(engine).answer(question([1] * 5, [2] * 3, [3] * 5))
    assert [v[0] for v in decode_vectors(answer, 3, SPEC.dims)] == [5, 3, 5]


@pytest.mark.parametrize("wrong", [[1000], [-1], [1] * (SPEC.max_tokens + 1)])
async def test_what_the_model_cannot_read_spoils_nobody_elses_batch(
    engine: FakeEngine, wrong: list[int]
) -> None:
    replica = replica_with(engine)
    assert outcome_of(await replica.answer(question([1], wrong)))[0] is Outcome.REFUSED
    assert outcome_of(await replica.answer(b"noise"))[0] is Outcome.REFUSED
    assert engine.batches == []


@pytest.mark.parametrize(
    ("setting", "gateway"),
    [
        ("precision", replace(SPEC, precision=Precision.INT8)),
        ("pooling", replace(SPEC, pooling=Pooling.CLS)),
        ("dims", replace(SPEC, dims=8)),
        ("max_tokens", replace(SPEC, max_tokens=9)),
        ("repo", replace(SPEC, source=ModelSource(repo="another"))),
        ("revision", replace(SPEC, source=ModelSource(revision="another"))),
    ],
)
async def test_a_gateway_with_other_settings_gets_no_vectors(
    engine: FakeEngine, setting: str, gateway: ModelSpec
) -> None:
    replica = replica_with(engine)
    marks = marks_of(gateway, precision_of(gateway, EngineSettings()))
    answer = await replica.answer(encode_question(Question([[1]], Caller.keyless("key_1"), marks=marks)))
    assert decode_difference(answer) == [setting]
    assert engine.batches == []


async def test_what_differs_between_machines_without_a_difference_in_vectors_is_no_matter(
    engine: FakeEngine,
) -> None:
    gateway = replace(
        SPEC, source=ModelSource(Path("a folder"), repo="another"), price=Price(7), prompt="query: "
    )
    marks = marks_of(gateway, precision_of(gateway, EngineSettings(device="cpu")))
    answer = await replica_with(engine).answer(
        encode_question(Question([[1]], Caller.keyless("key_1"), marks=marks))
    )
    assert outcome_of(answer)[0] is Outcome.OK


async def test_engine_failures_are_told(engine: FakeEngine) -> None:
    replica = replica_with(engine)
    engine.error = RuntimeError("out of memory")
    assert outcome_of(await replica.answer(question([1])))[0] is Outcome.FAILED
    engine.error, engine.value = None, float("nan")
    assert outcome_of(await replica.answer(question([1])))[0] is Outcome.FAILED


async def test_full_queue_says_when_to_come_back(engine: FakeEngine) -> None:
    engine.go.clear()
    replica = replica_with(engine, replace(PLAN, queue=QueueSettings(max_tokens=60)))
    first = []
    for n in range(3):
        first.append(asyncio.create_task(replica.answer(question([1] * 60, caller=f"key_{n}"))))
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.started.wait, 10)
    outcome, retry_after_s = outcome_of(await replica.answer(question([1] * 60, caller="key_9")))
    assert (outcome, retry_after_s) == (Outcome.FULL, 1)
    engine.go.set()
    assert [outcome_of(answer)[0] for answer in await asyncio.gather(*first)] == [Outcome.OK] * 3


async def test_callers_take_turns_whatever_gateway_asks_for_them(engine: FakeEngine) -> None:
    engine.go.clear()
    replica = replica_with(engine)
    bulk = [asyncio.create_task(replica.answer(question(*[[1] * 60] * 5, caller="bulk"))) for _ in range(4)]
    await asyncio.to_thread(engine.started.wait, 10)
    query = asyncio.create_task(replica.answer(question([2] * 7, caller="query")))
    await asyncio.sleep(0)
    engine.go.set()
    await asyncio.gather(query, *bulk)
    assert [7] in engine.batches[:3]


async def test_cancelled_question_frees_its_place(engine: FakeEngine) -> None:
    engine.go.clear()
    replica = replica_with(engine)
    first = asyncio.create_task(replica.answer(question([1] * 60)))
    await asyncio.to_thread(engine.started.wait, 10)
    second = asyncio.create_task(replica.answer(question([1] * 50)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    engine.go.set()
    await first
    await replica.answer(question([1] * 9))
    assert engine.batches == [[60], [9]]


def http(authorization: str | None, body: bytes = b"", method: str = "POST") -> Request:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": method, "path": "/", "headers": headers}, receive)


async def test_http_carries_the_same_frames(engine: FakeEngine) -> None:
    response = await replica_with(engine)(http(f"Bearer {SECRET}", question([1] * 4)))
    assert (response.status_code, response.media_type) == (200, MEDIA_TYPE)
    assert decode_vectors(bytes(response.body), 1, SPEC.dims)[0][0] == 4


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", f"Basic {SECRET}", SECRET])
async def test_http_is_for_those_who_know_the_secret(engine: FakeEngine, authorization: str | None) -> None:
    replica = replica_with(engine)
    assert (await replica(http(authorization, question([1])))).status_code == 401
    assert engine.batches == []


@pytest.mark.parametrize("authorization", ["Bearer ", "Bearer", f"Bearer {SECRET}"])
async def test_without_a_secret_http_is_for_nobody(engine: FakeEngine, authorization: str) -> None:
    replica = replica_with(engine, replace(PLAN, secret_digest=b""))
    assert (await replica(http(authorization, question([1])))).status_code == 401


async def test_http_bodies_are_bounded_and_posted(engine: FakeEngine) -> None:
    replica = replica_with(engine)
    big = http(f"Bearer {SECRET}", bytes(MAX_QUESTION_BYTES + 1))
    assert (await replica(big)).status_code == 413
    assert (await replica(http(f"Bearer {SECRET}", method="GET"))).status_code == 405


async def test_node_with_another_vectoll_does_not_serve(engine: FakeEngine) -> None:
    with pytest.raises(RuntimeError, match="install the same"):
        replica_with(engine, replace(PLAN, version="0.0.1"))
