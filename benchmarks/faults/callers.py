"""Who calls: customers of every kind, and those who only make trouble. Each is a coroutine without an end."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import jwt
from benchmarks.faults.client import EMBEDDINGS, Client, Purchase
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from eth_account import Account
from tests.chains.anvil import Anvil, authorize
from tests.integration.payments import header
from tests.wallets import Wallet

TOP_UP = "/api/v1/x402/top-up"

WORDS = [
    "the",
    "price",
    "of",
    "energy",
    "rises",
    "when",
    "demand",
    "grows",
    "faster",
    "than",
    "supply",
    "every",
    "day",
    "small",
    "models",
    "turn",
    "text",
]
_TEXTS = random.Random(7)
TEXTS = [" ".join(_TEXTS.choices(WORDS, k=_TEXTS.randint(2, 24))) for _ in range(64)]
FINAL = (200, 400, 401, 402, 403, 409, 413, 415)
"""Statuses after which asking again is of no use."""
SLOW_S = 15.0
"""Where an answer took longer than this, clocks have moved on: no claim is made."""

Caller = Callable[[Client, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Buyer:
    """Who pays, and how it says who it is."""

    id: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Crowd:
    """The callers of a run, by name; ``pause_s`` is the mean time that one waits between two requests."""

    callers: Mapping[str, Caller]
    pause_s: float

    async def run(self, client: Client, seed: object, is_over: asyncio.Event) -> None:
        """All of them until the event; whoever is asking then gets an answer first."""
        async with asyncio.TaskGroup() as group:
            for name, caller in self.callers.items():
                group.create_task(
                    self._keep_calling(caller, client, random.Random(f"{seed} {name}"), is_over)
                )

    async def _keep_calling(
        self, caller: Caller, client: Client, rng: random.Random, is_over: asyncio.Event
    ) -> None:
        while not is_over.is_set():
            await caller(client, rng)
            with suppress(TimeoutError):
                async with asyncio.timeout(rng.expovariate(1 / self.pause_s)):
                    await is_over.wait()


async def persist(client: Client, kind: str, purchase: Purchase) -> None:
    """Ask up to five times, as long as it can help."""
    for trial in range(5):
        status = await client.buy(kind, purchase)
        if status in FINAL:
            return
        await asyncio.sleep(0.1 * 2**trial)


def customer(account: Buyer, most_texts: int = 4) -> Caller:
    """Buys with and without an Idempotency-Key; with one it asks again until it has its answer."""

    async def call(client: Client, rng: random.Random) -> None:
        texts = rng.sample(TEXTS, rng.choice((1, 1, 1, most_texts)))
        if rng.random() < 0.5:
            await client.buy("customer", client.wish(account.id, account.headers, texts))
        else:
            key = f"order {rng.getrandbits(64):x}"
            await persist(client, "customer", client.wish(account.id, account.headers, texts, key))

    return call


def bulk(account: Buyer, texts: int = 200) -> Caller:
    """Large requests, under a key every time."""

    async def call(client: Client, rng: random.Random) -> None:
        key = f"bulk {rng.getrandbits(64):x}"
        wanted = [rng.choice(TEXTS) for _ in range(texts)]
        await persist(client, "bulk", client.wish(account.id, account.headers, wanted, key))

    return call


def leaver(account: Buyer) -> Caller:
    """Goes away before its answer, mostly; comes back for it where it has a key."""

    async def call(client: Client, rng: random.Random) -> None:
        key = f"left {rng.getrandbits(64):x}" if rng.random() < 0.5 else None
        purchase = client.wish(account.id, account.headers, rng.choices(TEXTS, k=16), key)
        with suppress(TimeoutError):
            async with asyncio.timeout(rng.uniform(0, 0.08)):
                await client.buy("leaver", purchase)
        if key is not None and rng.random() < 0.5:
            await persist(client, "leaver", purchase)

    return call


def vandal(account: Buyer) -> Caller:
    """Sends what is wrong in every way. Only 4xx is an answer to it, or 503."""
    json_type = {"content-type": "application/json"}
    good = json.dumps({"model": "all-MiniLM-L6-v2", "input": "x"}).encode()
    requests: tuple[tuple[Mapping[str, str], bytes], ...] = (
        (account.headers | json_type, b"{"),
        (account.headers | json_type, b"\xff\xfe\x00"),
        (account.headers | json_type, b'{"model": "all-MiniLM-L6-v2"}'),
        (account.headers | json_type, b'{"model": "all-MiniLM-L6-v2", "input": ""}'),
        (account.headers | json_type, b'{"model": "all-MiniLM-L6-v2", "input": [[-1]]}'),
        (account.headers | json_type, b'{"model": "all-MiniLM-L6-v2", "input": [[999999999]]}'),
        (account.headers | json_type, b'{"model": "nothing", "input": "x"}'),
        (account.headers | json_type, b'{"model": "all-MiniLM-L6-v2", "input": "x", "dimensions": 7}'),
        (
            account.headers | json_type,
            json.dumps({"model": "all-MiniLM-L6-v2", "input": "x " * 9000}).encode(),
        ),
        (account.headers | json_type, b"[" * 50_000),
        (account.headers | {"content-type": "text/plain"}, good),
        (account.headers | json_type | {"idempotency-key": ""}, good),
        (json_type, good),
        (json_type | {"authorization": "Bearer vtk_wrong"}, good),
        (json_type | {"authorization": "Basic eDp5"}, good),
        (json_type | {"sign-in-with-x": "bm90IGpzb24="}, good),
    )

    async def call(client: Client, rng: random.Random) -> None:
        headers, body = rng.choice(requests)
        answer = await client.send("vandal", "POST", EMBEDDINGS, headers, body)
        if answer is not None and not (400 <= answer.status < 500 or answer.status == 503):
            client.violations.append(f"vandal: {answer.status} to what is wrong")

    return call


@dataclass
class Clock:
    """A caller's clock that goes wrong: by how much, and whether its credentials are still good."""

    good: tuple[float, ...]
    bad: tuple[float, ...]
    is_good: bool = field(default=True, init=False)

    def skew_s(self, rng: random.Random) -> float:
        self.is_good = rng.random() < 0.7
        return rng.choice(self.good if self.is_good else self.bad)


async def buy_with_skew(
    client: Client, kind: str, account: str, headers: Mapping[str, str], is_good: bool
) -> None:
    """A good clock is never refused for it, a bad one always."""
    purchase = client.wish(account, headers, [TEXTS[0]])
    began = time.monotonic()
    status = await client.buy(kind, purchase)
    if time.monotonic() - began > SLOW_S:
        return
    if is_good and status == 401:
        client.violations.append(f"{kind}: refused with a clock within the limits")
    if not is_good and status not in (401, 503, None):
        client.violations.append(f"{kind}: {status} with a clock beyond the limits")


def wallet(signer: Wallet) -> Caller:
    """Signs in for every request. Clocks may be half a minute ahead and a message four minutes old."""
    clock = Clock(good=(0, 0, 12, -120, -240), bad=(90, 3600, -400, -86_400))

    async def call(client: Client, rng: random.Random) -> None:
        at = datetime.now(UTC) + timedelta(seconds=clock.skew_s(rng))
        await buy_with_skew(client, "wallet", signer.id, signer.sign_in(at=at), clock.is_good)

    return call


def token_bearer(account: str, issuer: Ed25519PrivateKey) -> Caller:
    """Brings JWTs of an issuer whose clock is off: 30 seconds are tolerated."""
    clock = Clock(good=(0, 0, 12, -12), bad=(120, -120, 86_400, -86_400))

    async def call(client: Client, rng: random.Random) -> None:
        now = time.time() + clock.skew_s(rng)
        claims = {"sub": account, "nbf": int(now), "exp": int(now) + 5}
        headers = {"authorization": f"Bearer {jwt.encode(claims, issuer, 'EdDSA')}"}
        await buy_with_skew(client, "jwt", account, headers, clock.is_good)

    return call


@dataclass
class Payer:
    """Wallets that were never here before pay once each, and send the same payment until they hear of it."""

    chain: Anvil
    pay_to: str
    credited: dict[str, int] = field(default_factory=dict)
    """What each was told was credited, in 10⁻⁶ USDC."""

    async def __call__(self, client: Client, rng: random.Random) -> None:
        payer = Account.create()
        units = rng.randrange(5, 20) * 10**6
        await asyncio.to_thread(self.chain.fund, payer.address, units)
        headers = {"payment-signature": header(authorize(payer, self.pay_to, units, valid_for_s=800))}
        for trial in range(8):
            answer = await client.send("payer", "POST", TOP_UP, headers)
            if answer is not None and answer.status == 200:
                told = round(answer.json()["data"]["amountCredited"] * 10**6)
                if self.credited.setdefault(payer.address.lower(), told) != units:
                    client.violations.append(f"payer: told of {told} for a payment of {units}")
                return
            await asyncio.sleep(0.2 * 2 ** min(trial, 4))
