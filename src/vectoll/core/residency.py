"""Which models are in memory: loaded on first use, the least recently used unloaded when another needs the room."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence

from vectoll.domain.catalog import ModelSpec
from vectoll.domain.embedding import Embeddings, Encoding, Inputs
from vectoll.domain.errors import AtCapacity, Draining, ModelOffline
from vectoll.domain.identity import NOBODY, Caller
from vectoll.domain.ids import ModelId
from vectoll.ports.model import EmbeddingModel

RETRY_LOADING_S = 30.0
"""A model that could not be loaded is not tried again sooner."""

LOST_DRAIN_S = 5.0
"""How long requests may still wait for a model that another has found gone."""

Measure = Callable[[], Awaitable[int]]
"""How many bytes the model takes when loaded; fetches its weights if that must be. Raises ModelOffline."""

Load = Callable[[], Awaitable[EmbeddingModel]]
"""Raises ModelOffline with the reason that callers are given."""

_log = logging.getLogger("vectoll.models")


class Residency:
    """The memory that models share. One model is loaded at a time, so that none needs room that another is taking."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._used_bytes = 0
        self._residents: dict[ModelId, ResidentModel] = {}
        """Least recently used first."""
        self._turn = asyncio.Lock()

    def touch(self, model: "ResidentModel") -> None:
        """It was used just now."""
        self._residents[model.spec.id] = self._residents.pop(model.spec.id)

    async def admit(self, model: "ResidentModel", load: Load) -> EmbeddingModel:
        """Load a model, unloading others as needed.

        Raises ModelOffline, AtCapacity while all of them are busy, and Draining when it was closed meanwhile.
        """
        async with self._turn:
            if model.is_closed:
                raise Draining
            await self._make_room(model)
            loaded = await load()
            self._used_bytes += model.memory_bytes
            self._residents[model.spec.id] = model
            model.arrive(loaded)  # before the next one, who may need its room, has its turn
            return loaded

    async def _make_room(self, model: "ResidentModel") -> None:
        if model.memory_bytes > self._budget_bytes:
            details = {"needs_mib": model.memory_bytes >> 20, "memory_mib": self._budget_bytes >> 20}
            _log.warning("model_too_large", extra={"model": model.spec.id, **details})
            raise ModelOffline(model.spec.id, "it needs more memory than this server may use")
        while self._used_bytes + model.memory_bytes > self._budget_bytes:
            idle = next((m for m in self._residents.values() if not m.is_busy), None)
            if idle is None:
                raise AtCapacity(5)
            del self._residents[idle.spec.id]
            _log.info("model_unloading", extra={"model": idle.spec.id, "for": model.spec.id})
            freed_bytes = idle.memory_bytes  # as it was loaded: it may be measured anew while it leaves
            try:
                await idle.unload()
            finally:
                self._used_bytes -= freed_bytes


class ResidentModel:
    """Implements ``ports.model.EmbeddingModel``: there when it is used, gone when its memory is needed."""

    def __init__(
        self,
        spec: ModelSpec,
        measure: Measure,
        load: Load,
        residency: Residency,
        offline: MutableMapping[ModelId, str],
        abort: Callable[[], None],
    ) -> None:
        """``offline`` gets the reason while the model cannot be loaded. ``abort`` asks a load to give up soon."""
        self._abort = abort
        self._spec = spec
        self._measure = measure
        self._load = load
        self.memory_bytes = 0
        self._residency = residency
        self._offline = offline
        self._model: EmbeddingModel | None = None
        self._loading: asyncio.Task[EmbeddingModel] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        """Those that were lost, while they are closed."""
        self._retry_at = 0.0
        self._users = 0
        self._is_closed = False

    @property
    def spec(self) -> ModelSpec:
        """How it is read, limited and priced."""
        return self._spec

    @property
    def is_closed(self) -> bool:
        """Whether nobody may use it any more."""
        return self._is_closed

    @property
    def is_busy(self) -> bool:
        """Whether somebody uses it now."""
        return self._users > 0

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        """See ``EmbeddingModel.tokenize``. Raises ModelOffline and AtCapacity, too."""
        model = await self._enter()
        try:
            return await model.tokenize(inputs, caller)
        finally:
            self._users -= 1

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        """See ``EmbeddingModel.embed``. Raises ModelOffline, too: it may have been unloaded since ``tokenize``, or be
        gone from where it is computed.
        """
        model = await self._enter()
        try:
            return await model.embed(encodings, dimensions=dimensions, caller=caller)
        except ModelOffline:
            self._lose(model)
            raise
        finally:
            self._users -= 1

    async def load(self) -> None:
        """Be ready before the first request. Raises ModelOffline and AtCapacity."""
        await self._enter()
        self._users -= 1

    async def _enter(self) -> EmbeddingModel:
        """The model, in use from now on: whoever calls this counts itself out of ``_users`` again."""
        self._users += 1
        try:
            model = self._model or await self._loaded()
        except BaseException:
            self._users -= 1
            raise
        if self._model is not None:
            self._residency.touch(self)
        return model

    async def _loaded(self) -> EmbeddingModel:
        """Load once for all who wait; whoever gives up waiting does not stop it for the others."""
        now = asyncio.get_running_loop().time()
        if self._is_closed:
            raise Draining
        if self._loading is None:
            if now < self._retry_at:
                raise ModelOffline(self._spec.id, self._offline[self._spec.id])
            self._loading = self._begin_loading()
        return await asyncio.shield(self._loading)

    def _begin_loading(self) -> "asyncio.Task[EmbeddingModel]":
        task = asyncio.create_task(self._enter_memory())
        task.add_done_callback(self._finish_loading)
        return task

    def _lose(self, model: EmbeddingModel) -> None:
        """It is gone from where it is computed, which is elsewhere. Loading finds out at once whether it is back."""
        if self._model is not model or self._is_closed:
            return
        self._model = None
        self._loading = self._begin_loading()
        leaving = asyncio.create_task(model.close(LOST_DRAIN_S))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _enter_memory(self) -> EmbeddingModel:
        self.memory_bytes = await self._measure()
        return await self._residency.admit(self, self._load)

    def _finish_loading(self, task: "asyncio.Task[EmbeddingModel]") -> None:
        self._loading = None
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ModelOffline):
            self._retry_at = asyncio.get_running_loop().time() + RETRY_LOADING_S
            self._offline[self._spec.id] = error.reason

    def arrive(self, model: EmbeddingModel) -> None:
        """It is in memory."""
        self._model = model
        self._offline.pop(self._spec.id, None)

    async def unload(self) -> None:
        """Free the memory. Only while nobody uses it."""
        model, self._model = self._model, None
        if model is not None:
            await model.close()

    async def close(self, drain_s: float = 0.0) -> None:
        """See ``EmbeddingModel.close``. A load that is under way is asked to give up, and waited for: weights cannot
        be half freed.
        """
        self._is_closed = True
        self._abort()
        if self._loading is not None:
            await asyncio.wait([self._loading])
        await asyncio.gather(*self._leaving)
        model, self._model = self._model, None
        if model is not None:
            await model.close(drain_s)
