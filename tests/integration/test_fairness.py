"""One caller's bulk ingest never makes another's single query slow."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live import MODEL, Key, Server, Vectoll

EMBEDDINGS = "/api/v1/embeddings"
QUERIES = 200
STREAMS = 2
BATCH_TIMES = 5


async def test_single_queries_stay_fast_beside_a_bulk_client(tmp_path: Path) -> None:
    """p99 within 5 batch times: the batches in flight, its own, and what the machine's noise adds.

    The batch time is of the same run: streams × elapsed time ÷ batches, with every stream busy throughout.
    """
    vectoll = Vectoll(
        tmp_path,
        engine__streams=STREAMS,
        limits__requests_per_minute=0,
        limits__tokens_per_minute=0,
        queue__max_wait_s=600,
    )
    with vectoll.serve() as server:
        query_key = vectoll.create_key()
        with bulk_ingest(server, vectoll.create_key(), tmp_path / "bulk.json"):
            await server.until_queued(lambda waiting: waiting > 50_000)
            batches_before, started = (
                await server.metric("vectoll_batch_sequences_count"),
                time.perf_counter(),
            )
            latencies = query_latencies(server, query_key)
            elapsed = time.perf_counter() - started
            batches = await server.metric("vectoll_batch_sequences_count") - batches_before
            assert await server.metric("vectoll_queue_tokens") > 10_000, (
                "the bulk client did not saturate the engine"
            )
    batch_s = STREAMS * elapsed / batches
    p99 = sorted(latencies)[int(0.99 * QUERIES)]
    print(f"p50 {sorted(latencies)[QUERIES // 2]:.4f} s, p99 {p99:.4f} s, batch {batch_s:.4f} s")
    assert p99 <= BATCH_TIMES * batch_s
    vectoll.verify()


def query_latencies(server: Server, key: Key) -> list[float]:
    """Seconds of each of QUERIES short queries, one after the other."""
    latencies = []
    with server.client(key) as client:
        for i in range(QUERIES):
            started = time.perf_counter()
            answer = client.post(EMBEDDINGS, json={"model": MODEL, "input": f"how do I reset password {i}"})
            latencies.append(time.perf_counter() - started)
            assert answer.status_code == 200, answer.text
    return latencies


@contextmanager
def bulk_ingest(server: Server, key: Key, body: Path) -> Iterator[None]:
    """Requests of 2048 documents of mixed length, three at a time, by a process of its own."""
    documents = ["a document is made of words " * (1 + n % 30) for n in range(2048)]
    body.write_text(json.dumps({"model": MODEL, "input": documents, "encoding_format": "base64"}))
    command = ["curl", "--no-progress-meter", "--parallel", "--parallel-max", "3", "--output", "/dev/null"]
    headers = ["-H", f"authorization: Bearer {key.secret}", "-H", "content-type: application/json"]
    url = f"{server.url}{EMBEDDINGS}?n=[1-1000]"
    process = subprocess.Popen([*command, *headers, "--data-binary", f"@{body}", url])
    try:
        yield
    finally:
        process.terminate()
        process.wait()
