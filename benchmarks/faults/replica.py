"""One engine replica without a cluster: the class that Ray Serve deploys, behind a plain HTTP server.

A process of its own with the real model. Ray takes tens of seconds to replace what is killed on two busy cores, and
``tests/integration/test_cluster.py`` kills replicas there; this one is back in two, so that it can be killed often.
"""

import argparse
import asyncio
import hashlib

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vectoll.adapters.engines.ray.names import route_prefix
from vectoll.cluster.replica import EngineReplica, ReplicaPlan
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.ids import ModelId
from vectoll.loading import read_served_models
from vectoll.settings import load_settings

MODEL = ModelId("all-MiniLM-L6-v2")


def app_of(spec: ModelSpec, secret: str) -> Starlette:
    """Answers frames under the model's path, and /ready. Belongs to the event loop that runs."""
    settings = load_settings(environ={"VECTOLL_ENGINE__STREAMS": "1"})
    plan = ReplicaPlan(
        spec, settings.engine, settings.queue, settings.tracing, hashlib.sha256(secret.encode()).digest()
    )
    replica = EngineReplica(plan)

    async def ask(request: Request) -> Response:
        return await replica(request)

    async def ready(_: Request) -> Response:
        return Response()

    routes = [Route(route_prefix(MODEL), ask, methods=["POST"]), Route("/ready", ready)]
    return Starlette(routes=routes)


async def serve(port: int, secret: str) -> None:
    spec = read_served_models(load_settings(environ={})).catalog.resolve(MODEL)
    server = uvicorn.Server(uvicorn.Config(app_of(spec, secret), port=port, log_level="warning"))
    await server.serve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret", required=True)
    args = parser.parse_args()
    asyncio.run(serve(args.port, args.secret))


if __name__ == "__main__":
    main()
