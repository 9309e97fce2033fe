"""One trace from a gateway to the engine in a replica on Ray, by handle and over HTTP, as a real collector gets it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live import MODEL, Vectoll
from tests.otlp import Collector, otlp_collector
from tests.ray_head import RayCluster, run_ray

SECRET = "only gateways know this"
TEXT = "what nobody else may read"
STAGES = ["auth", "charge", "compress", "encode", "hold", "serialise", "tokenize"]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with otlp_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_SERVICE_NAME", "replica")  # a replica has its node's environment
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        with run_ray() as cluster:
            yield cluster


@pytest.fixture(scope="module")
def make(
    cluster: RayCluster, collector: Collector, unused_tcp_port_factory: Callable[[], int]
) -> Callable[..., Vectoll]:
    """Makes installations that know the cluster and the collector."""
    port = unused_tcp_port_factory()

    def make(home: Path, **settings: str) -> Vectoll:
        vectoll = Vectoll(
            home,
            engine__backend="ray",
            cluster__address=cluster.address,
            cluster__secret=SECRET,
            cluster__http_port=port,
            cluster__urls=json.dumps([f"http://127.0.0.1:{port}"]),
            tracing__enabled=True,
            tracing__endpoint=collector.url,
            config="",
            **settings,
        )
        vectoll.environment.update(
            cluster.environment, OTEL_SERVICE_NAME="gateway", OTEL_BSP_SCHEDULE_DELAY="20"
        )
        return vectoll

    return make


@pytest.fixture(scope="module")
def deployed(make: Callable[..., Vectoll], tmp_path_factory: pytest.TempPathFactory) -> None:
    make(tmp_path_factory.mktemp("operator")).run("cluster", "deploy", "--timeout", "150", timeout_s=180)


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("route", ["handle", "http"])
def test_a_replicas_work_hangs_from_the_gateways_call(
    route: str, make: Callable[..., Vectoll], collector: Collector, tmp_path: Path
) -> None:
    vectoll = make(tmp_path, cluster__route=route)
    key = vectoll.create_key()
    collector.seen.clear()
    collector.raw.clear()
    with vectoll.serve() as server, server.client(key) as client:
        answer = client.post("/v1/embeddings", json={"model": MODEL, "input": TEXT})
        assert answer.status_code == 200
        spans = collector.wait_for(len(STAGES) + 4)
        [line] = [
            line
            for line in map(json.loads, server.log.read_text().splitlines())
            if line.get("model") == MODEL
        ]
    request = "gateway POST /v1/embeddings"
    assert collector.tree(spans) == {
        "": [request],
        request: [f"gateway {stage}" for stage in STAGES],
        "gateway encode": ["gateway replica"],
        "gateway replica": ["replica embed"],
        "replica embed": ["replica queue"],
    }
    assert {seen.span.trace_id.hex() for seen in spans} == {line["trace_id"]}
    for told in (TEXT, SECRET, key.secret, key.id, str(line["account"])):
        assert not any(told.encode() in body for body in collector.raw), told
