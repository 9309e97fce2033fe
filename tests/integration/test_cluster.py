"""Gateways in front of engine replicas on a real Ray cluster: every process is its own, the model is real."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.live import MODEL, Key, Server, Vectoll
from tests.ray_head import RayCluster, run_ray

SECRET = "only gateways know this"
EMBEDDINGS = "/api/v1/embeddings"
TEXT = "the quick brown fox jumps over the lazy dog " * 4
CONNECTIONS = 16

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with run_ray() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def http_port(unused_tcp_port_factory: Callable[[], int]) -> int:
    return unused_tcp_port_factory()


@pytest.fixture(scope="module")
def base(
    cluster: RayCluster, http_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Vectoll]:
    """Makes installations that know the cluster."""

    def make(name: str, **settings: str) -> Vectoll:
        vectoll = Vectoll(
            tmp_path_factory.mktemp(name),
            engine__backend="ray",
            cluster__address=cluster.address,
            cluster__secret=SECRET,
            cluster__http_port=http_port,
            cluster__min_replicas=2,
            cluster__part_tokens=512,
            limits__requests_per_minute=0,
            limits__tokens_per_minute=0,
            config="",
            **settings,
        )
        vectoll.environment.update(cluster.environment)
        return vectoll

    return make


@pytest.fixture(scope="module")
def operator(base: Callable[..., Vectoll]) -> Vectoll:
    """Has deployed the model."""
    operator = base("operator")
    assert f"{MODEL}: running (2 running)" in operator.run(
        "cluster", "deploy", "--timeout", "170", timeout_s=180
    )
    return operator


@pytest.fixture(scope="module", params=["handle", "http"])
def gateway(
    request: pytest.FixtureRequest, operator: Vectoll, base: Callable[..., Vectoll], http_port: int
) -> Iterator[tuple[Vectoll, Server]]:
    """One of each kind; what it charged is verified at the end."""
    urls = json.dumps([f"http://127.0.0.1:{http_port}"])
    vectoll = base(request.param, cluster__route=request.param, cluster__urls=urls)
    with vectoll.serve() as server:
        yield vectoll, server
    vectoll.verify()


def test_vectors_are_those_of_the_engine_in_one_process(
    gateway: tuple[Vectoll, Server], tmp_path: Path
) -> None:
    vectoll, server = gateway
    texts = [TEXT[: 1 + n * 3] for n in range(60)]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    key = vectoll.create_key()
    remote = ("--url", server.url, "--api-key", key.secret)
    vectoll.run("embed", *remote, "--file", str(file), "--output", str(tmp_path / "a.npy"))
    Vectoll(tmp_path / "alone").run("embed", "--file", str(file), "--output", str(tmp_path / "b.npy"))
    there, here = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert there.shape == (60, 384)
    assert np.min(np.sum(there * here, axis=1)) > 0.9999


@pytest.mark.parametrize("gateway", ["http"], indirect=True)
async def test_replicas_are_replaced_under_load_without_a_loss(
    gateway: tuple[Vectoll, Server], operator: Vectoll, cluster: RayCluster
) -> None:
    vectoll, server = gateway
    key = vectoll.create_key()
    before = set(cluster.replicas())
    async with load(server, key, connections=4) as statuses:
        await asyncio.to_thread(operator.run, "cluster", "deploy", "--timeout", "170", timeout_s=180)
        answered = statuses[200]
        await until(lambda: statuses[200] > answered + 50)
    assert set(statuses) == {200}, statuses
    assert len(server.charges(key)) == statuses[200]
    assert not before & set(cluster.replicas())


async def test_killed_replica_costs_nobody_an_answer(
    gateway: tuple[Vectoll, Server], cluster: RayCluster
) -> None:
    """kill -9 under load: every answer is right, what was paid is what was delivered."""
    vectoll, server = gateway
    key = vectoll.create_key()
    await until(lambda: len(cluster.replicas()) == 2)
    async with load(server, key) as statuses:
        await until(lambda: statuses[200] > 50)
        cluster.kill_replica()
        answered = statuses[200]
        await until(lambda: statuses[200] > answered + 100)
    assert set(statuses) == {200}, statuses
    assert len(server.charges(key)) == statuses[200]


@pytest.mark.parametrize("gateway", ["http"], indirect=True)
async def test_single_query_does_not_wait_behind_a_bulk_request(gateway: tuple[Vectoll, Server]) -> None:
    """Queries take a small part of what the bulk takes, which is there all the while."""
    vectoll, server = gateway
    body = {"model": MODEL, "input": [TEXT] * 1024, "encoding_format": "base64"}
    seconds: list[float] = []
    async with (
        server.async_client(vectoll.create_key()) as client,
        server.async_client(vectoll.create_key()) as quick,
    ):
        began = time.perf_counter()
        bulk = asyncio.create_task(client.post(EMBEDDINGS, json=body))
        while not bulk.done():
            started = time.perf_counter()
            answer = await quick.post(EMBEDDINGS, json={"model": MODEL, "input": "how do I reset it?"})
            seconds.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
        bulk_s = time.perf_counter() - began
    assert (await bulk).status_code == 200
    typical = sorted(seconds)[len(seconds) // 2]
    print(f"bulk {bulk_s:.2f} s; {len(seconds)} queries, p50 {typical:.3f} s, worst {max(seconds):.3f} s")
    assert typical < bulk_s / 8


def test_replicas_answer_only_who_knows_the_secret(operator: Vectoll, http_port: int) -> None:
    url = f"http://127.0.0.1:{http_port}/vectoll-{MODEL}"
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {SECRET}"}):
        assert httpx.post(url, headers=headers, content=b"x").status_code == 401
    known = httpx.post(url, headers={"authorization": f"Bearer {SECRET}"}, content=b"not a frame")
    assert (known.status_code, known.content[:8]) == (200, b"VTA1\x04\0\0\0")


def test_gateway_with_a_wrong_secret_says_that_the_model_is_offline(
    operator: Vectoll, base: Callable[..., Vectoll], http_port: int
) -> None:
    urls = json.dumps([f"http://127.0.0.1:{http_port}"])
    vectoll = base("stranger", cluster__route="http", cluster__urls=urls)
    vectoll.environment["VECTOLL_CLUSTER__SECRET"] = "not what the others know"
    with vectoll.serve(is_usable=False) as server, server.client(vectoll.create_key()) as client:
        answer = client.post(EMBEDDINGS, json={"model": MODEL, "input": "hello"})
    assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_OFFLINE")
    assert vectoll.json("usage") == []


def test_gateway_with_other_settings_than_the_replicas_is_not_ready_and_says_why(
    operator: Vectoll, base: Callable[..., Vectoll], http_port: int
) -> None:
    urls = json.dumps([f"http://127.0.0.1:{http_port}"])
    vectoll = base("other", cluster__route="http", cluster__urls=urls, engine__precision="f32")
    with vectoll.serve(is_usable=False) as server, server.client(vectoll.create_key()) as client:
        ready = client.get("/ready")
        answer = client.post(EMBEDDINGS, json={"model": MODEL, "input": "hello"})
    assert ready.status_code == 503
    assert "its replicas were deployed with another precision" in ready.text
    assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_OFFLINE")
    assert vectoll.json("usage") == []


def test_operator_sees_and_deletes_what_is_deployed(operator: Vectoll, cluster: RayCluster) -> None:
    [shown] = operator.json("cluster", "status")
    assert (shown["name"], shown["replicas"].get("RUNNING", 0) > 0) == (MODEL, True)
    operator.run("cluster", "delete", MODEL)
    assert cluster.replicas() == []


@pytest.mark.parametrize("route", ["http", "handle"])
async def test_gateway_of_a_model_that_is_deleted_is_not_ready_until_it_is_deployed_again(
    operator: Vectoll, base: Callable[..., Vectoll], http_port: int, route: str
) -> None:
    operator.run("cluster", "deploy", "--timeout", "170", timeout_s=180)
    urls = json.dumps([f"http://127.0.0.1:{http_port}"])
    vectoll = base(f"left-by-{route}", cluster__route=route, cluster__urls=urls)
    with vectoll.serve() as server, server.client(vectoll.create_key()) as client:
        operator.run("cluster", "delete", MODEL)
        answer = client.post(EMBEDDINGS, json={"model": MODEL, "input": "hello"})
        assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_OFFLINE")
        await until(lambda: client.get("/ready").status_code == 503)
        assert "not deployed" in client.get("/ready").text
        operator.run("cluster", "deploy", "--timeout", "170", timeout_s=180)
        await until(
            lambda: client.get("/ready").status_code == 200, within_s=90
        )  # it is asked twice a minute
        assert client.post(EMBEDDINGS, json={"model": MODEL, "input": "hello"}).status_code == 200


@asynccontextmanager
async def load(server: Server, key: Key, connections: int = CONNECTIONS) -> AsyncIterator[Counter[int]]:
    """Requests without a pause until the block ends; counts the statuses of all that were sent."""
    statuses: Counter[int] = Counter()
    is_over = asyncio.Event()
    body = {"model": MODEL, "input": [TEXT] * 4, "encoding_format": "base64"}

    async def ask(client: httpx.AsyncClient) -> None:
        while not is_over.is_set():
            statuses[(await client.post(EMBEDDINGS, json=body)).status_code] += 1

    async with server.async_client(key) as client, asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(ask(client))
        yield statuses
        is_over.set()


async def until(is_so: Callable[[], bool], within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - other processes have no events
            await asyncio.sleep(0.05)
