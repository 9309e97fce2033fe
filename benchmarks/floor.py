"""What HTTP alone costs: the same server and the same engine with nothing between. Run by ``server.py``.

    python benchmarks/floor.py --port 8800

No authentication, no validation, no limits, no ledger, no log: a body is decoded, tokenised, embedded and answered.
What vectoll adds is to be compared with this; what this loses against the engine, nothing on this server wins back.
"""

import argparse
import gc
from typing import Any

import msgspec
import numpy as np
import orjson
import uvicorn
import uvloop

from vectoll.domain.identity import NOBODY
from vectoll.loading import open_model
from vectoll.ports.model import EmbeddingModel
from vectoll.settings import load_settings

MODEL = "all-MiniLM-L6-v2"


class Request(msgspec.Struct):
    input: str | list[str]


_DECODER = msgspec.json.Decoder(Request)


def app_of(model: EmbeddingModel) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = await _answer(model, body) if scope["method"] == "POST" else b"{}"
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


async def _answer(model: EmbeddingModel, body: bytes) -> bytes:
    texts = _DECODER.decode(body).input
    encodings = await model.tokenize([texts] if isinstance(texts, str) else texts)
    result = await model.embed(encodings, dimensions=None, caller=NOBODY)
    vectors = [np.frombuffer(vector, np.float32) for vector in result.vectors]
    return orjson.dumps(
        {"data": [{"embedding": vector} for vector in vectors]}, option=orjson.OPT_SERIALIZE_NUMPY
    )


async def serve(port: int) -> None:
    async with open_model(load_settings(environ={}), MODEL) as model:
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        config = uvicorn.Config(
            app_of(model),
            port=port,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
