"""Embedding in this process."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from vectoll.core.embed import check_dimensions
from vectoll.domain.embedding import Vector
from vectoll.domain.identity import NOBODY
from vectoll.loading import open_model
from vectoll.ports.model import EmbeddingModel
from vectoll.settings import Settings


class LocalEmbedder:
    """One model, without a ledger."""

    def __init__(self, model: EmbeddingModel, dimensions: int | None) -> None:
        self._model = model
        self._dimensions = dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """One vector per text, in order. Raises VectollError."""
        encodings = await self._model.tokenize(texts)
        embeddings = await self._model.embed(encodings, dimensions=self._dimensions, caller=NOBODY)
        return embeddings.vectors


@asynccontextmanager
async def open_local(settings: Settings, model: str, dimensions: int | None) -> AsyncIterator[LocalEmbedder]:
    """Raises UnknownModel, ModelOffline, and InvalidRequest for a size that the model does not have."""
    async with open_model(settings, model) as opened:
        check_dimensions(opened.spec, dimensions)
        yield LocalEmbedder(opened, dimensions)
