"""The models that this process serves."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from vectoll.domain.catalog import Catalog, ModelSpec
from vectoll.domain.errors import ModelOffline, UnknownModel
from vectoll.domain.ids import ModelId
from vectoll.ports.model import EmbeddingModel


class ModelRegistry:
    """Resolves names to specs and specs to running models. One model's failure leaves the others serving."""

    def __init__(
        self,
        catalog: Catalog,
        models: Mapping[ModelId, EmbeddingModel],
        offline: Mapping[ModelId, str] | None = None,
        switched_on: Collection[ModelId] | None = None,
    ) -> None:
        """``offline`` says why a model cannot be used now, and is read each time: it changes as models load.

        ``switched_on`` are those that the operator wants served, whether they can be or not; else ``models``.
        """
        self._catalog = catalog
        self._models = dict(models)
        self._offline = {} if offline is None else offline
        self._switched_on = self._models.keys() if switched_on is None else frozenset(switched_on)

    @property
    def specs(self) -> Sequence[ModelSpec]:
        """Every model in the catalogue, in its order."""
        return tuple(self._catalog.values())

    def resolve(self, name: str) -> ModelSpec:
        """The model of this id or alias. Raises UnknownModel, which lists those that can be used now."""
        try:
            return self._catalog.resolve(name)
        except UnknownModel:
            raise UnknownModel(name, sorted(spec.id for spec in self.usable)) from None

    def offline_reason(self, spec: ModelSpec) -> str | None:
        """Why a model cannot be used now; None when it can."""
        reason = self._offline.get(spec.id)
        if reason is None and spec.id not in self._models:
            return "its weights are not loaded"
        return reason

    @property
    def usable(self) -> Sequence[ModelSpec]:
        """Those that can be used now, in the catalogue's order: loaded, or loaded when they are used."""
        return tuple(spec for spec in self.specs if self.offline_reason(spec) is None)

    @property
    def why_none(self) -> str | None:
        """Why no model can be used now, as callers are told; None where one can."""
        if self.usable:
            return None
        reasons = [
            f"{spec.id}: {self.offline_reason(spec)}" for spec in self.specs if spec.id in self._switched_on
        ]
        return "; ".join(reasons) or "no model is switched on"

    async def get(self, spec: ModelSpec) -> EmbeddingModel:
        """The running model. Raises ModelOffline."""
        model = self._models.get(spec.id)
        if model is None:
            raise ModelOffline(spec.id, self.offline_reason(spec) or "unknown")
        return model

    async def close(self, drain_s: float = 0.0) -> None:
        """Close every model at once; requests in flight may take ``drain_s`` seconds to finish."""
        await asyncio.gather(*(model.close(drain_s) for model in self._models.values()))
