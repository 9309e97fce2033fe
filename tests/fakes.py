"""Stand-ins for what is slow: a model without weights, and the HTTP application around it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.admission import Admission
from vectoll.core.auth import Authentication, KeyAuthenticator
from vectoll.core.billing import Billing
from vectoll.core.embed import EmbedService
from vectoll.core.models import ModelRegistry
from vectoll.core.recent_funds import RecentFunds
from vectoll.domain.catalog import Catalog, ModelSource, ModelSpec, Pooling
from vectoll.domain.embedding import Embeddings, Encoding, Inputs, Usage
from vectoll.domain.errors import InputTooLong
from vectoll.domain.identity import NOBODY, ApiKey, Caller, KeyKind, SpendLimit, digest_of, new_secret
from vectoll.domain.ids import AccountId, KeyId, ModelId, TransferId, new_id
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import Price, usd
from vectoll.http.app import Application
from vectoll.http.services import Phase, Readiness, Services
from vectoll.ports.clock import Clock, SystemClock
from vectoll.ports.metrics import ServerMetrics
from vectoll.settings import LimitsSettings, Settings

SPEC = ModelSpec(
    id=ModelId("fake-model"),
    name="Fake",
    source=ModelSource(),
    pooling=Pooling.MEAN,
    dims=384,
    max_tokens=64,
    price=Price.per_million("0.0125"),
    matryoshka_dims=(8,),
    aliases=("fake",),
)


@dataclass
class FakeEmbeddingModel:
    """An EmbeddingModel: one token a word (two more a text), and unit vectors that follow from the token ids.

    ``error`` is raised by ``embed``; a closed ``gate`` keeps every call waiting.
    """

    spec: ModelSpec = SPEC
    error: Exception | None = None
    gate: asyncio.Event | None = None
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0
    embedded: int = 0

    async def tokenize(self, inputs: Inputs, caller: Caller = NOBODY) -> Sequence[Encoding]:
        encodings = [self._encode(each) for each in inputs]
        for index, encoding in enumerate(encodings):
            if encoding.token_count > self.spec.max_tokens:
                raise InputTooLong(index, encoding.token_count, self.spec.max_tokens)
        return encodings

    def _encode(self, each: str | Sequence[int]) -> Encoding:
        if isinstance(each, str):
            return Encoding([101, *(len(word) for word in each.split(" ")), 102])
        return Encoding(each)

    async def embed(
        self, encodings: Sequence[Encoding], *, dimensions: int | None, caller: Caller
    ) -> Embeddings:
        self.started.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.error is not None:
            raise self.error
        dims = dimensions or self.spec.dims
        self.embedded += len(encodings)
        vectors = [self.vector(encoding, dims) for encoding in encodings]
        return Embeddings(vectors, dims, Usage(sum(e.token_count for e in encodings)))

    def vector(self, encoding: Encoding, dims: int) -> memoryview:
        """The vector of one encoding: pseudo-random, unit length."""
        phase = sum(encoding.ids) % 1009 + encoding.token_count
        wave = np.sin(np.arange(1, dims + 1, dtype=np.float32) * phase)
        return memoryview((wave / np.linalg.norm(wave)).astype("<f4")).toreadonly()

    async def close(self, drain_s: float = 0.0) -> None:
        pass


class FakeServer:
    """The whole HTTP application on the in-memory adapters, one account with five dollars and its keys."""

    def __init__(
        self,
        *specs: ModelSpec,
        settings: Settings | None = None,
        clock: Clock | None = None,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.settings = settings or Settings()
        self.store = MemoryStore(self.clock)
        self.metrics = metrics or PrometheusMetrics()
        self.models = {spec.id: FakeEmbeddingModel(spec) for spec in (SPEC, *specs)}
        self.model = self.models[SPEC.id]
        registry = ModelRegistry(Catalog([model.spec for model in self.models.values()]), self.models)
        self.services = Services(
            embed=EmbedService(registry, Billing(self.store.ledger, self.metrics, self.clock), self.metrics),
            models=registry,
            auth=Authentication([KeyAuthenticator(self.store.keys, self.clock)]),
            admission=Admission(MemoryRateLimiter(), self.settings.limits),
            ledger=self.store.ledger,
            funds=RecentFunds(self.store.ledger),
            keys=self.store.keys,
            clock=self.clock,
            settings=self.settings,
            metrics=self.metrics,
            readiness=Readiness(Phase.READY),
        )
        self.app = Application(self.services)

    async def open(self, account: str = "acct_1", dollars: str = "5") -> str:
        """An account with this much credit; returns an INFERENCE key to it."""
        if dollars != "0":
            now = datetime.now(UTC)
            source = system_account("credit", now)
            credit = Transfer(
                TransferId(new_id("crd")), source, AccountId(account), usd(dollars), TransferCode.CREDIT, now
            )
            await self.store.ledger.post(credit)
        return await self.key(account)

    async def key(
        self,
        account: str = "acct_1",
        kind: KeyKind = KeyKind.INFERENCE,
        *,
        expires_at: datetime | None = None,
        limit: SpendLimit | None = None,
        is_pro: bool = False,
    ) -> str:
        """A new key's secret."""
        secret = new_secret()
        key = ApiKey(
            id=KeyId(new_id("key")),
            account=AccountId(account),
            kind=kind,
            name="test",
            digest=digest_of(secret),
            prefix=secret[:8],
            last6=secret[-6:],
            created_at=self.clock.now(),
            expires_at=expires_at,
            limit=limit,
            is_pro=is_pro,
        )
        await self.store.keys.add(key)
        return secret


def limited(**limits: int) -> Settings:
    """Default settings but for these limits."""
    return Settings(limits=LimitsSettings(**limits))
