"""The part of the composition root that is about models: which are served, and what loads each.

What not every model needs is imported where it is used, so that `vectoll models list` does not load an engine.
"""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from vectoll.adapters.checkpoints import locate, read_checkpoint
from vectoll.adapters.engines.cores import available_cores
from vectoll.catalog_file import ServedModels, read_models
from vectoll.core.models import ModelRegistry
from vectoll.core.reading import Readers
from vectoll.core.residency import RETRY_LOADING_S, Residency, ResidentModel
from vectoll.domain.catalog import CheckpointFacts, ModelSource, ModelSpec, TokenIdPolicy, Upstream
from vectoll.domain.errors import AtCapacity, ConfigurationError, Draining, ModelOffline, VectollError
from vectoll.domain.ids import ModelId
from vectoll.domain.money import Price
from vectoll.engines import (
    load_engine,
    memory_budget,
    memory_need,
    open_checkpoint,
    precision_of,
)
from vectoll.ports.engine import Backend
from vectoll.ports.metrics import Metrics, NoMetrics
from vectoll.ports.model import EmbeddingModel, ForeignTokens, Tokenizer
from vectoll.settings import Settings

__all__ = ["ModelState", "model_states", "open_model", "open_models", "read_served_models"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model of the catalogue, and why it would not be served; None when it would."""

    spec: ModelSpec
    is_named: bool
    """Whether vectoll.toml names it."""
    offline: str | None
    """As callers are told."""
    detail: str | None
    """As the operator is told."""


@dataclass(frozen=True, slots=True)
class _Threads:
    """Threads that answer no requests: fetching weights may take hours, and reading long texts a minute."""

    readers: Readers
    loaders: Executor

    def load(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        """Run ``work`` in a thread: there is one for each model, so no model waits for another."""
        return asyncio.get_running_loop().run_in_executor(self.loaders, partial(work, *args, **kwargs))


@contextmanager
def _open_threads(settings: Settings, models: int) -> Iterator[_Threads]:
    cores = available_cores()
    with (
        ThreadPoolExecutor(cores, thread_name_prefix="tokenize") as readers,
        ThreadPoolExecutor(max(1, models), thread_name_prefix="load") as loaders,
    ):
        yield _Threads(Readers(readers, cores, settings.queue.max_wait_s), loaders)


@asynccontextmanager
async def open_models(settings: Settings, metrics: Metrics) -> AsyncIterator[ModelRegistry]:
    """The catalogue, with every model that is switched on; those to be loaded on start are loaded.

    A model that cannot be loaded is offline, and the others serve. Raises ConfigurationError, also for a device that
    is not there.
    """
    served = read_served_models(settings)
    states = _states(settings, served)
    offline = {state.spec.id: state.offline for state in states if state.offline}
    for model_id, fault in served.faults.items():
        log.warning("model_offline", extra={"model": model_id, "reason": fault})
    computes_here = settings.engine.backend == "local"
    residency = Residency(await asyncio.to_thread(memory_budget, settings.engine) if computes_here else 0)
    with _open_threads(settings, len(states)) as threads:
        models = {
            state.spec.id: _resident(state.spec, settings, metrics, threads, residency, offline)
            for state in states
            if state.offline is None
        }
        switched_on = {state.spec.id for state in states if state.is_named} | models.keys()
        registry = ModelRegistry(served.catalog, models, offline, switched_on)
        retrying = asyncio.create_task(_retry(registry, models.values()))
        try:
            for model in models.values():
                if model.spec.load_on_start:
                    await _try_to_load(model)
            if why := registry.why_none:
                log.warning("no_model_served", extra={"reason": why})
            yield registry
        finally:
            retrying.cancel()
            await registry.close()


async def _try_to_load(model: ResidentModel) -> None:
    with suppress(ModelOffline, AtCapacity, Draining):  # logged, and shown as offline
        await model.load()


async def _retry(registry: ModelRegistry, models: Iterable[ResidentModel]) -> None:
    """Loading is tried again by requests for a model; but while none can be served, /ready keeps requests away."""
    while True:
        await asyncio.sleep(RETRY_LOADING_S)
        if not registry.usable:
            for model in models:
                await _try_to_load(model)


def _resident(
    spec: ModelSpec,
    settings: Settings,
    metrics: Metrics,
    threads: _Threads,
    residency: Residency,
    offline: MutableMapping[ModelId, str],
) -> ResidentModel:
    """A model that is loaded when it is used. What goes wrong is logged in full and told to callers in brief."""

    stop = threading.Event()

    async def measure() -> int:
        if spec.upstream is not None or settings.engine.backend == "ray":
            return 0
        with _explaining(spec):
            return await threads.load(memory_need, spec, settings.engine, stop)

    async def load() -> EmbeddingModel:
        with _explaining(spec):
            return await _load(spec, settings, metrics, threads)

    return ResidentModel(spec, measure, load, residency, offline, abort=stop.set)


@contextmanager
def _explaining(spec: ModelSpec) -> Iterator[None]:
    """Whatever keeps a model from loading becomes ModelOffline."""
    try:
        yield
    except Draining:
        raise
    except ModelOffline as error:
        log.warning("model_offline", extra={"model": spec.id, "reason": error.reason})
        raise
    except VectollError as error:
        log.warning("model_offline", extra={"model": spec.id, "reason": str(error)})
        raise ModelOffline(spec.id, "it could not be loaded") from None
    except Exception:  # whatever an engine or a checkpoint raises, the other models are served
        log.exception("model_offline", extra={"model": spec.id})
        raise ModelOffline(spec.id, "it could not be loaded") from None


@asynccontextmanager
async def open_model(settings: Settings, name: str) -> AsyncIterator[EmbeddingModel]:
    """One model by id or alias, without a server or a ledger. Raises UnknownModel, ModelOffline."""
    served = read_served_models(settings)
    spec = served.catalog.resolve(name)
    if reason := served.faults.get(spec.id):
        raise ModelOffline(spec.id, reason)
    with _open_threads(settings, 1) as threads:
        model = await _load(spec, settings, NoMetrics(), threads)
        try:
            yield model
        finally:
            await model.close()


def read_served_models(settings: Settings) -> ServedModels:
    """The catalogue with the operator's changes. Raises ConfigurationError."""
    try:  # checked also when every model has a price of its own
        Price.per_million(settings.default_price_usd_per_million)
    except ValueError as error:
        raise ConfigurationError(f"setting default_price_usd_per_million: {error}") from None
    return read_models(settings, _read_facts)


def model_states(settings: Settings) -> Sequence[ModelState]:
    """Every model of the catalogue in its order, without loading any."""
    return _states(settings, read_served_models(settings))


def _states(settings: Settings, served: ServedModels) -> Sequence[ModelState]:
    """A model is switched on when a package carries it or vectoll.toml names it."""
    named = {entry.id for entry in settings.models}
    states = []
    for spec in served.catalog.values():
        reason = served.offline.get(spec.id)
        if reason is None and spec.id not in named and spec.source.package is None:
            reason = "the operator has not switched this model on"
        states.append(ModelState(spec, spec.id in named, reason, served.faults.get(spec.id, reason)))
    return states


def _read_facts(model: ModelId, source: ModelSource) -> CheckpointFacts:
    """Facts of a checkpoint on this machine. Raises ModelOffline where there is none, ConfigurationError where it is
    broken.
    """
    checkpoint = read_checkpoint(locate(model, source))
    family = checkpoint.architecture.family.value
    return CheckpointFacts(family, checkpoint.pooling, checkpoint.dims, checkpoint.max_tokens)


async def _load(spec: ModelSpec, settings: Settings, metrics: Metrics, threads: _Threads) -> EmbeddingModel:
    """Raises ModelOffline, ConfigurationError, and whatever an engine raises."""
    if spec.upstream is not None:
        return await threads.load(_connect, spec, spec.upstream, metrics, threads.readers)
    from vectoll.adapters.tokenizers import CheckpointTokenizer, load_tokenizer
    from vectoll.core.batching.local import LocalModel

    def load() -> CheckpointTokenizer:
        return load_tokenizer(open_checkpoint(spec), spec.pooling)

    tokenizer = await threads.load(load)
    if settings.engine.backend == "ray":
        backend = await _reach(spec, settings, threads)
    else:
        backend = await _compute_here(spec, settings, metrics, threads)
    return LocalModel(spec, tokenizer, backend, threads.readers, _foreign_tokens(spec))


async def _compute_here(spec: ModelSpec, settings: Settings, metrics: Metrics, threads: _Threads) -> Backend:
    """The engine in this process, behind its queue."""
    from vectoll.core.batching.batcher import Batcher

    loaded = await threads.load(load_engine, spec, settings.engine)
    facts = {
        "engine": loaded.runtime,
        "streams": loaded.engine.streams,
        "batch_tokens": loaded.shape.budget_tokens,
    }
    log.info("model_loaded", extra={"model": spec.id, **facts})
    return Batcher(
        loaded.engine,
        loaded.shape,
        model=spec.id,
        max_queue_tokens=settings.queue.max_tokens,
        max_wait_s=settings.queue.max_wait_s,
        metrics=metrics,
    )


async def _reach(spec: ModelSpec, settings: Settings, threads: _Threads) -> Backend:
    """The model's replicas on a Ray cluster. Raises ModelOffline, also where they compute something else, and
    ConfigurationError.
    """
    from vectoll.adapters.engines.ray import marks_of, open_cluster_backend
    from vectoll.core.tracing import onward

    marks = marks_of(spec, precision_of(spec, settings.engine))
    backend = await threads.load(open_cluster_backend, spec, settings.cluster, settings.queue, onward, marks)
    try:
        await backend.check()
    except BaseException:
        await backend.close()
        raise
    return backend


def _connect(spec: ModelSpec, upstream: Upstream, metrics: Metrics, readers: Readers) -> EmbeddingModel:
    """A model whose vectors are bought. Reads its tokenizer; connects on first use."""
    from vectoll.adapters.token_ids import VOCABULARIES, BytePairTokenizer, load_vocabulary
    from vectoll.adapters.tokenizers import load_tokenizer_file
    from vectoll.adapters.upstreams import build_upstream

    tokenizer: Tokenizer | None = None
    if upstream.tokenizer in VOCABULARIES:
        tokenizer = BytePairTokenizer(load_vocabulary(upstream.tokenizer))
    elif upstream.tokenizer is not None:
        tokenizer = load_tokenizer_file(Path(upstream.tokenizer).expanduser())
    foreign = _foreign_tokens(spec)
    return build_upstream(spec, os.environ, readers, tokenizer=tokenizer, foreign=foreign, metrics=metrics)


def _foreign_tokens(spec: ModelSpec) -> ForeignTokens | None:
    """What reads the token ids that another model's clients send; None where the policy needs nothing."""
    if spec.token_ids not in (TokenIdPolicy.CL100K_BASE, TokenIdPolicy.R50K_BASE):
        return None
    from vectoll.adapters.token_ids import BytePairDecoder, load_vocabulary

    return BytePairDecoder(load_vocabulary(spec.token_ids.value))
