"""One client of several gateways, who writes down what was asked for and what came of it."""

import asyncio
import base64
import json
import random
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from benchmarks.faults.documented import Documented

EMBEDDINGS = "/api/v1/embeddings"
MODEL, DIMS = "all-MiniLM-L6-v2", 384
PATIENCE_S = 900.0
"""For one answer: the machine may stand still for minutes."""
SAME = 0.03
"""How far a number of a vector may be from the first vector of the same text, in bf16 and in other batches."""


@dataclass
class Gateway:
    """Where one gateway is, and which process is behind it now."""

    url: str
    incarnation: int = 0
    is_up: bool = True


@dataclass(slots=True)
class Purchase:
    """One thing that a caller wants, however often it has to ask."""

    account: str
    headers: Mapping[str, str]
    body: bytes
    texts: Sequence[str]
    key: str | None = None
    """The Idempotency-Key."""
    request_ids: list[str] = field(default_factory=list)
    answers: int = 0
    """How often the vectors arrived."""
    tokens: int = 0
    heard: list[str] = field(default_factory=list)
    """What each attempt came to, and at which process of which gateway."""
    is_in_doubt: bool = False
    """A connection broke under it, or its caller left: it may have been charged without an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body that arrived whole."""

    status: int
    body: bytes
    where: str
    """The gateway, and how many of its processes had ended before this one."""

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Sends, checks every answer, counts. ``violations`` is what must stay empty."""

    def __init__(self, gateways: Sequence[Gateway], session: aiohttp.ClientSession, seed: object) -> None:
        self.gateways = gateways
        self.rng = random.Random(f"{seed} client")
        self.documented: Documented | None = None
        self.purchases: list[Purchase] = []
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.violations: list[str] = []
        self.latencies: list[tuple[float, float]] = []
        """When each single query was sent (``time.monotonic``), and the seconds until its answer."""
        self._session = session
        self._numbers = 0
        self._vectors: dict[str, array[float]] = {}

    @property
    def delivered(self) -> int:
        """Answers with vectors, of all callers."""
        return sum(counts["200"] for counts in self.statuses.values())

    def next_id(self) -> str:
        """A request id of this client's own."""
        self._numbers += 1
        return f"r{self._numbers}"

    def gateway(self) -> Gateway:
        """One that is up, by chance; any where none is."""
        return self.rng.choice([g for g in self.gateways if g.is_up] or list(self.gateways))

    async def learn(self) -> None:
        """Read what the server promises to answer."""
        async with self._session.get(f"{self.gateways[0].url}/openapi.json") as response:
            self.documented = Documented(await response.json())

    async def send(
        self,
        kind: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> Answer | None:
        """The answer; None when the connection broke, which it may only where its gateway was killed."""
        gateway = self.gateway()
        incarnation, was_up = gateway.incarnation, gateway.is_up
        try:
            async with self._session.request(method, gateway.url + path, data=body, headers=headers) as got:
                answer = Answer(got.status, await got.read(), f"{gateway.url} #{incarnation}")
                media_type = got.content_type
        except (aiohttp.ClientError, ConnectionError) as error:
            self.statuses[kind]["broken"] += 1
            if was_up and gateway.is_up and gateway.incarnation == incarnation:
                self.violations.append(f"{kind}: {type(error).__name__} from a gateway that nobody touched")
            return None
        except TimeoutError:
            self.violations.append(f"{kind}: no answer after {PATIENCE_S:g} s")
            return None
        self.statuses[kind][str(answer.status)] += 1
        self._check(kind, method, path, answer, media_type)
        return answer

    def _check(self, kind: str, method: str, path: str, answer: Answer, media_type: str) -> None:
        assert self.documented is not None
        if answer.status == 500:
            self.violations.append(f"{kind}: 500 {answer.body[:200]!r}")
        if path == EMBEDDINGS and answer.status == 200:
            return  # ``buy`` looks at every number
        if problem := self.documented.problem_of(method, path, answer.status, media_type, answer.body):
            self.violations.append(f"{kind}: {problem}")

    def wish(
        self, account: str, headers: Mapping[str, str], texts: Sequence[str], key: str | None = None
    ) -> Purchase:
        """Something to buy, written down before anything is sent."""
        wanted = {"model": MODEL, "input": list(texts), "encoding_format": "base64"}
        purchase = Purchase(account, headers, json.dumps(wanted).encode(), texts, key)
        self.purchases.append(purchase)
        return purchase

    async def buy(
        self, kind: str, purchase: Purchase, headers: Mapping[str, str] | None = None
    ) -> int | None:
        """Ask once. The status, None for a broken connection. ``headers`` replace the purchase's own."""
        request_id = self.next_id()
        purchase.request_ids.append(request_id)
        sent = {
            **(headers or purchase.headers),
            "x-request-id": request_id,
            "content-type": "application/json",
        }
        if purchase.key is not None:
            sent["idempotency-key"] = purchase.key
        began = time.monotonic()
        try:
            answer = await self.send(kind, "POST", EMBEDDINGS, sent, purchase.body)
        except asyncio.CancelledError:
            purchase.is_in_doubt = True
            self.statuses[kind]["left"] += 1
            raise
        if answer is None:
            purchase.is_in_doubt = True
            return None
        purchase.heard.append(f"{answer.status} from {answer.where}")
        if answer.status == 200:
            self._take(kind, purchase, answer)
            if len(purchase.texts) == 1:
                self.latencies.append((began, time.monotonic() - began))
        return answer.status

    def _take(self, kind: str, purchase: Purchase, answer: Answer) -> None:
        document = answer.json()
        vectors = [array("f", base64.b64decode(entry["embedding"])) for entry in document["data"]]
        purchase.answers += 1
        purchase.tokens = document["usage"]["prompt_tokens"]
        if [len(vector) for vector in vectors] != [DIMS] * len(purchase.texts):
            self.violations.append(f"{kind}: {len(vectors)} vectors for {len(purchase.texts)} texts")
        for text, vector in zip(purchase.texts, vectors, strict=False):
            known = self._vectors.setdefault(text, vector)
            if any(abs(a - b) > SAME for a, b in zip(known, vector, strict=False)):
                self.violations.append(f"{kind}: another vector than before for the same text")


def open_session() -> aiohttp.ClientSession:
    """A session without a limit of its own on connections."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
    )
