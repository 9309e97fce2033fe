"""What each stage of a request for one short text costs the CPU, in microseconds.

    python benchmarks/stages.py                      # half a minute; --calls 640 --rounds 1 for a look

The stages are called in this process, on an engine that answers at once, and their CPU time (all threads) is divided
by the calls. What writes to the ledger is measured at 64 callers, whose writes share commits as they do in the server.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvloop

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gateway import bodies, sign_in  # noqa: E402
from benchmarks.instant import secret_of, services_with  # noqa: E402
from benchmarks.record import recording, versions  # noqa: E402

from vectoll.core.billing import Billing  # noqa: E402
from vectoll.core.embed import EmbedResult  # noqa: E402
from vectoll.domain.embedding import EncodingFormat, Usage  # noqa: E402
from vectoll.domain.identity import NOBODY  # noqa: E402
from vectoll.domain.ids import RequestId, new_id  # noqa: E402
from vectoll.domain.money import Quote  # noqa: E402
from vectoll.http.app import Application  # noqa: E402
from vectoll.http.compression import brotli_body, gzip_body  # noqa: E402
from vectoll.http.serialisation import write_embeddings  # noqa: E402
from vectoll.http.services import Phase, Services  # noqa: E402
from vectoll.http.validation import parse_embedding_request  # noqa: E402
from vectoll.logging import configure_logging  # noqa: E402
from vectoll.settings import LogSettings  # noqa: E402

CLIENT = "address:192.0.2.1"


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """The log is written, as always, but to nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


Call = Callable[[], Awaitable[object]]


async def cost(call: Call, count: int, callers: int = 1) -> float:
    """Microseconds of CPU per call, all threads of this process together."""
    await asyncio.gather(*(call() for _ in range(callers)))

    async def caller() -> None:
        for _ in range(count // callers):
            await call()

    started = time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return 1e6 * (time.process_time() - started) / (count // callers * callers)


async def measure_stages(services: Services, count: int) -> dict[str, float]:
    """What each stage of a request for one short text costs."""
    headers = {"authorization": f"Bearer {secret_of(0)}"}
    principal = await services.auth.identify(headers, CLIENT)
    body = bodies(1, "float")[0]
    request = parse_embedding_request(body)
    spec = services.models.resolve(request.model)
    model = await services.models.get(spec)
    encodings = await model.tokenize(request.inputs)
    tokens = sum(e.token_count for e in encodings)
    embeddings = await model.embed(encodings, dimensions=None, caller=NOBODY)
    billing = Billing(services.ledger, services.metrics)
    quote = Quote(spec.id, tokens, spec.price)
    result = EmbedResult(spec, embeddings, cast(Any, None))
    answer = write_embeddings(result, EncodingFormat.FLOAT)
    signed = iter([{"sign-in-with-x": sign_in(1)} for _ in range(count + 64)])

    async def later(value: object) -> object:
        return value

    async def admit() -> None:
        permit = await services.admission.admit(principal.caller)
        with permit:
            await permit.take_request(spec.id)
            await permit.take_tokens(spec.id, tokens)

    async def held(charges: bool) -> None:
        hold = billing.hold(principal, quote, request, RequestId(new_id("req")))
        async with hold:
            if charges:
                await hold.charge(Usage(tokens))

    hold_only = await cost(lambda: held(False), count, 64)
    whole = await cost(lambda: held(True), count, 64)
    app = Application(services)
    services.readiness.phase = Phase.READY
    unseen = iter([" ".join(f"word{n}of{turn}" for n in range(3)) for turn in range(2 * count + 64)])
    return {
        "nothing (the loop itself)": await cost(lambda: later(1), count),
        "auth: API key": await cost(lambda: services.auth.identify(headers, CLIENT), count),
        "auth: wallet, a fresh sign-in with its nonce stored durably": await cost(
            lambda: services.auth.identify(next(signed), CLIENT), count, 64
        ),
        "admit: in flight, requests and tokens per minute": await cost(admit, count),
        "validate": await cost(lambda: later(parse_embedding_request(body)), count),
        "tokenise": await cost(lambda: model.tokenize(request.inputs), count),
        "tokenise, where no word was ever seen": await cost(lambda: model.tokenize([next(unseen)]), count),
        "queue, batch and answer (an engine that takes no time)": await cost(
            lambda: model.embed(encodings, dimensions=None, caller=NOBODY), count, 64
        ),
        "hold and release": hold_only,
        "charge, durable": whole - hold_only,
        "serialise: 384 numbers": await cost(
            lambda: later(write_embeddings(result, EncodingFormat.FLOAT)), count
        ),
        "serialise: base64": await cost(
            lambda: later(write_embeddings(result, EncodingFormat.BASE64)), count
        ),
        "compress: gzip, where the client asks": await cost(lambda: later(gzip_body(answer)), count),
        "compress: br, where the client asks": await cost(lambda: later(brotli_body(answer)), count),
        "all of a request but the socket and HTTP parsing": await cost(partial(_call, app, body), count, 64),
    }


async def _call(app: Application, body: bytes) -> None:
    """One request through the ASGI application."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return waiting.pop() if waiting else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    headers = {"host": "x", "authorization": f"Bearer {secret_of(0)}", "content-type": "application/json"}
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/api/v1/embeddings", "root_path": "",
        "query_string": b"", "scheme": "http", "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()] + [(b"content-length", b"%d" % len(body))],
    }  # fmt: skip
    await app(scope, cast(Any, receive), cast(Any, send))


async def stages(count: int, rounds: int) -> list[dict[str, Any]]:
    configure_logging(LogSettings(format="json"))  # an access log is part of a request
    with _no_standard_error(), tempfile.TemporaryDirectory() as folder:
        async with services_with(Path(folder), wallets=1) as services:
            found = [await measure_stages(services, count) for _ in range(rounds)]
    return [
        {"stage": name, "cpu_us": round(statistics.median(f[name] for f in found), 1)} for name in found[0]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=6400, help="of each stage, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    packages = versions(
        "vectoll", "starlette", "msgspec", "orjson", "isal", "brotli", "btclib-libsecp256k1", "tokenizers"
    )
    with recording("stages", packages, options.out) as result:
        result["stages"] = uvloop.run(stages(options.calls, options.rounds))
    print(json.dumps(result["stages"], indent=1))


if __name__ == "__main__":
    main()
