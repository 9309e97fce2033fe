"""What a Ray cluster adds: throughput over replicas, and what each request costs the gateway, the replica, the network.

    python benchmarks/cluster.py                # scale and cost, five minutes on two cores
    python benchmarks/cluster.py autoscale      # how replicas follow the load

Replicas are real (Ray Serve, the fair queue, the wire format); only the engine is simulated: it sleeps for as long as a
batch would take, so that many replicas fit on few cores. ``scale`` takes 1, 2, 4, ... replicas under a load that keeps
each of them busy. ``cost`` has engines that take no time, and divides CPU time and bytes on the loopback interface by
requests. All of it is on one machine, generator and gateway in this process.
"""

import argparse
import asyncio
import json
import os
import resource
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from msgspec.structs import replace

from vectoll.adapters.engines.ray.opening import open_cluster_backend
from vectoll.cluster.deploy import delete, deploy, join, status, wait
from vectoll.cluster.placement import Needs
from vectoll.core.batching.queue import BatchShape
from vectoll.domain.catalog import ModelSource, ModelSpec, Pooling
from vectoll.domain.embedding import Vector
from vectoll.domain.identity import Caller
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price
from vectoll.engines import LoadedEngine
from vectoll.settings import ClusterSettings, EngineSettings, Settings

BATCH_TOKENS = 64
REQUESTS_PER_REPLICA = 4
"""In flight, in a closed loop: enough that no replica waits for its next batch."""
ROUNDS = 3
SPEC = ModelSpec(
    id=ModelId("simulated"),
    name="Simulated",
    source=ModelSource(),
    pooling=Pooling.MEAN,
    dims=384,
    max_tokens=8192,
    price=Price.per_million("0.0125"),
)


class SimulatedEngine:
    """Takes ``service_s`` for every batch, and no CPU."""

    streams = 1
    dims = SPEC.dims

    def __init__(self, service_s: float) -> None:
        self._service_s = service_s
        self._vector = np.full(self.dims, self.dims**-0.5, "<f4").data.toreadonly()

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:  # noqa: ARG002
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths)

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        _stream: int,
        *,
        is_alone: bool = True,  # noqa: ARG002
        callers: Sequence[Caller] = (),  # noqa: ARG002
    ) -> Sequence[Vector]:
        if self._service_s:
            time.sleep(self._service_s)
        return [self._vector] * len(batch)

    def close(self) -> None:
        pass


def loading(service_s: float) -> Callable[[ModelSpec, EngineSettings], LoadedEngine]:
    def load(_: ModelSpec, __: EngineSettings) -> LoadedEngine:
        return LoadedEngine(
            SimulatedEngine(service_s), BatchShape(BATCH_TOKENS, padded=False), 100_000, "simulated"
        )

    return load


def settings_for(
    replicas: int, route: str = "handle", *, least: int | None = None, port: int = 0
) -> Settings:
    return Settings(
        cluster=ClusterSettings(
            route=route,  # type: ignore[arg-type]
            urls=(f"http://127.0.0.1:{port}",),
            http_port=port,
            secret=SECRET,
            min_replicas=least or replicas,
            max_replicas=replicas,
            replica_cpus=0.05,
            part_tokens=BATCH_TOKENS,
            target_ongoing_requests=REQUESTS_PER_REPLICA,
        )
    )


SECRET = secrets.token_hex(16)


def bring_up(settings: Settings, service_s: float) -> None:
    """A fresh deployment of this many replicas."""
    delete(SPEC.id)
    deploy(SPEC, Needs(0.05, 0.0, 2**28), settings, loading(service_s))
    wait([SPEC.id], 300, lambda found: print(f"  {found.state} {found.replicas}", file=sys.stderr))


async def load(settings: Settings, in_flight: int, seconds: float, tokens: int, inputs: int = 1) -> int:
    """Requests that were answered in ``seconds``; every one must be."""
    backend = await asyncio.to_thread(open_cluster_backend, SPEC, settings.cluster, settings.queue)
    sequences = [list(range(1, tokens + 1))] * inputs
    deadline = time.perf_counter() + seconds
    answered = 0

    async def client(name: str) -> None:
        nonlocal answered
        while time.perf_counter() < deadline:
            await backend.compute(sequences, Caller.keyless(name))
            answered += 1

    await asyncio.gather(*(client(f"caller_{n}") for n in range(in_flight)))
    await backend.close()
    return answered


def scale(
    counts: Sequence[int], route: str, service_s: float, seconds: float, port: int
) -> list[dict[str, Any]]:
    """Requests of one whole batch each: a replica cannot do more than ``1 / service_s`` of them in a second."""
    rows: list[dict[str, Any]] = []
    for replicas in counts:
        settings = settings_for(replicas, route, port=port)
        bring_up(settings, service_s)
        in_flight = replicas * REQUESTS_PER_REPLICA
        uvloop.run(load(settings, in_flight, 2.0, BATCH_TOKENS))
        rate = statistics.median(timed(settings, in_flight, seconds / ROUNDS) for _ in range(ROUNDS))
        first = rows[0]["requests_per_s"] if rows else rate
        efficiency = rate / first * counts[0] / replicas
        rows.append(
            {"replicas": replicas, "requests_per_s": round(rate, 1), "efficiency": round(efficiency, 3)}
        )
        print(f"{replicas:4} replicas {rate:8.1f} requests/s  efficiency {efficiency:.1%}", flush=True)
    return rows


def timed(settings: Settings, in_flight: int, seconds: float) -> float:
    """Requests per second of one round."""
    started = time.perf_counter()
    answered = uvloop.run(load(settings, in_flight, seconds, BATCH_TOKENS))
    return answered / (time.perf_counter() - started)


@dataclass(frozen=True)
class Usage:
    """CPU seconds so far, and bytes on the loopback interface."""

    gateway_s: float
    replicas_s: float
    proxy_s: float
    network_bytes: int


def usage_now() -> Usage:
    own = resource.getrusage(resource.RUSAGE_SELF)
    lines = Path("/proc/net/dev").read_text().splitlines()
    loopback = next(line.split() for line in lines if line.strip().startswith("lo:"))
    return Usage(
        own.ru_utime + own.ru_stime,
        cpu_of("ServeReplica"),
        cpu_of("ProxyActor") + cpu_of("haproxy"),
        int(loopback[9]),
    )


def cpu_of(name: str) -> float:
    """CPU seconds of every process whose command line has this in it."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if name in (folder / "cmdline").read_text():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            continue
    return total


def cost(seconds: float, port: int) -> list[dict[str, Any]]:
    """Short queries and parts of 4,096 tokens by both routes, on two replicas whose engines take no time."""
    bring_up(settings_for(2, port=port), 0.0)
    return [
        cost_of(route, tokens, inputs, seconds, port)
        for tokens, inputs in ((12, 1), (128, 32))
        for route in ("handle", "http")
    ]


def cost_of(route: str, tokens: int, inputs: int, seconds: float, port: int) -> dict[str, Any]:
    """CPU time and bytes for a request of ``inputs`` sequences of ``tokens`` each, which travels in one part."""
    settings = settings_for(2, route, port=port)
    settings = replace(settings, cluster=replace(settings.cluster, part_tokens=tokens * inputs))
    uvloop.run(load(settings, 32, 2.0, tokens, inputs))
    before, started = usage_now(), time.perf_counter()
    answered = uvloop.run(load(settings, 32, seconds, tokens, inputs))
    elapsed, after = time.perf_counter() - started, usage_now()
    row = {
        "route": route,
        "inputs": inputs,
        "tokens": tokens * inputs,
        "requests_per_s": round(answered / elapsed, 1),
        "gateway_ms": round((after.gateway_s - before.gateway_s) / answered * 1000, 3),
        "replica_ms": round((after.replicas_s - before.replicas_s) / answered * 1000, 3),
        "proxy_ms": round((after.proxy_s - before.proxy_s) / answered * 1000, 3),
        "network_bytes": round((after.network_bytes - before.network_bytes) / answered),
    }
    print(row, flush=True)
    return row


async def autoscale(route: str, service_s: float, seconds: float, port: int) -> list[dict[str, Any]]:
    """One replica at first, eight at most; a load for eight."""
    settings = settings_for(8, route, least=1, port=port)
    await asyncio.to_thread(bring_up, settings, service_s)
    rows: list[dict[str, Any]] = []
    task = asyncio.create_task(load(settings, 8 * REQUESTS_PER_REPLICA, seconds, BATCH_TOKENS))
    started = time.perf_counter()
    while not task.done():
        await asyncio.sleep(2)
        [found] = await asyncio.to_thread(status, [SPEC.id])
        rows.append({"second": round(time.perf_counter() - started), "replicas": found.replicas})
        print(rows[-1], flush=True)
    print(f"{await task} requests, none failed")
    return rows


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["scale", "cost"], help="scale, cost, autoscale")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--route", choices=["http", "handle"], default="http", help="for scale and autoscale")
    parser.add_argument("--service-ms", type=float, default=100.0, help="time of one batch")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False, configure_logging=False)
    port, found = free_port(), {}
    try:
        join(ClusterSettings())
        if "scale" in args.what:
            found["scale"] = scale(args.replicas, args.route, args.service_ms / 1000, args.seconds, port)
        if "cost" in args.what:
            found["cost"] = cost(args.seconds, port)
        if "autoscale" in args.what:
            found["autoscale"] = uvloop.run(autoscale(args.route, args.service_ms / 1000, 60.0, port))
    finally:
        ray.shutdown()
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
