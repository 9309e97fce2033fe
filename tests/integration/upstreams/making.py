"""Models over the provider of ``provider_server``."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from tests.integration.upstreams.provider_server import KEY, NATIVE_DIMS

from vectoll.adapters.token_ids import BytePairDecoder, BytePairTokenizer, load_vocabulary
from vectoll.adapters.upstreams import UpstreamModel, build_upstream
from vectoll.adapters.upstreams.retries import RetryPolicy
from vectoll.core.reading import Readers
from vectoll.domain.catalog import ModelKind, ModelSource, ModelSpec, Pooling, TokenIdPolicy, Upstream
from vectoll.domain.embedding import Embeddings, Inputs
from vectoll.domain.identity import NOBODY, Caller
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price
from vectoll.ports.metrics import Metrics, NoMetrics

THREADS = ThreadPoolExecutor(1)
QUICK = RetryPolicy(max_attempts=4, base_s=0.001, cap_s=0.002)


def spec_of(
    *urls: str, kind: ModelKind = ModelKind.OPENAI, prompt: str = "", max_tokens: int = 100, **how: Any
) -> ModelSpec:
    dims = how.pop("dims", NATIVE_DIMS)
    token_ids = how.pop("token_ids", TokenIdPolicy.REJECT)
    upstream = Upstream(kind, urls, "their-name", **{"api_key_env": "PROVIDER_KEY", "timeout_s": 5.0, **how})
    return ModelSpec(
        id=ModelId("our-name"),
        name="",
        source=ModelSource(),
        pooling=Pooling.UPSTREAM,
        dims=dims,
        max_tokens=max_tokens,
        price=Price(1),
        matryoshka_any=True,
        prompt=prompt,
        token_ids=token_ids,
        upstream=upstream,
    )


@asynccontextmanager
async def upstream_model(*urls: str, key: str = KEY, **how: Any) -> AsyncIterator[UpstreamModel]:
    """A model with quick retries; closed at the end."""
    metrics: Metrics = how.pop("metrics", NoMetrics())
    spec = spec_of(*urls, **how)
    vocabulary = load_vocabulary("cl100k_base")
    model = build_upstream(
        spec,
        {"PROVIDER_KEY": key},
        Readers(THREADS, 1, 60.0),
        tokenizer=BytePairTokenizer(vocabulary) if how.get("tokenizer") else None,
        foreign=BytePairDecoder(vocabulary) if spec.token_ids is TokenIdPolicy.CL100K_BASE else None,
        retries=QUICK,
        metrics=metrics,
    )
    try:
        yield model
    finally:
        await model.close()


async def embed(
    model: UpstreamModel, inputs: Inputs, dimensions: int | None = None, caller: Caller = NOBODY
) -> Embeddings:
    return await model.embed(await model.tokenize(inputs), dimensions=dimensions, caller=caller)
