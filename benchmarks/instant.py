"""A server whose engine answers at once: what is left is the gateway. Run by ``gateway.py``.

    python benchmarks/instant.py PORT DATA_DIR KEYS WALLETS

Everything else is real: authentication, limits (on, out of reach), metering, the durable ledger, log, JSON. With
WALLETS above 0, x402 is on, and so many wallets, whose private keys are the numbers from 1, have credit.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import vectoll.loading  # noqa: E402
from vectoll.adapters.chains.secp256k1 import SigningKey  # noqa: E402
from vectoll.bootstrap import open_services, open_store  # noqa: E402
from vectoll.core.batching.queue import BatchShape  # noqa: E402
from vectoll.domain.catalog import ModelSpec  # noqa: E402
from vectoll.domain.embedding import Vector  # noqa: E402
from vectoll.domain.identity import ApiKey, Caller  # noqa: E402
from vectoll.domain.ids import AccountId, TransferId  # noqa: E402
from vectoll.domain.ledger import Transfer, TransferCode, system_account  # noqa: E402
from vectoll.domain.money import usd  # noqa: E402
from vectoll.domain.wallets import parse_wallet  # noqa: E402
from vectoll.engines import LoadedEngine  # noqa: E402
from vectoll.http.services import Services  # noqa: E402
from vectoll.logging import configure_logging  # noqa: E402
from vectoll.ports.clock import SystemClock  # noqa: E402
from vectoll.ports.store import Store  # noqa: E402
from vectoll.server.serving import serve  # noqa: E402
from vectoll.settings import EngineSettings, LogSettings, Settings, load_settings  # noqa: E402

DIMS, VOCABULARY = 384, 30_522
URL = "https://bench.example"


class InstantEngine:
    """One random vector for everything."""

    streams, dims, packed = 1, DIMS, True

    def __init__(self) -> None:
        vector = np.random.default_rng(1).standard_normal(DIMS).astype(np.float32)
        self._vector: Any = (vector / np.linalg.norm(vector)).data.toreadonly()

    def embed(
        self,
        batch: Sequence[Sequence[int]],
        _stream: int,
        *,
        is_alone: bool = True,  # noqa: ARG002
        callers: Sequence[Caller] = (),  # noqa: ARG002
    ) -> Sequence[Vector]:
        return [self._vector] * len(batch)

    def known_tokens(self, ids: Sequence[int], caller: Caller) -> int:  # noqa: ARG002
        return 0

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        return sum(lengths)

    def close(self) -> None:
        pass


def use_instant_engine() -> None:
    """From now on every local model is computed by it."""
    vectoll.loading.load_engine = _load_instant  # type: ignore[attr-defined]


def _load_instant(spec: ModelSpec, settings: EngineSettings) -> LoadedEngine:  # noqa: ARG001 - the real one's signature
    return LoadedEngine(InstantEngine(), BatchShape(16_384, padded=False), VOCABULARY, "instant")


def secret_of(number: int) -> str:
    """The API key of account ``number``."""
    return "vtk_" + hashlib.sha256(f"benchmark {number}".encode()).hexdigest()


def wallet_of(number: int) -> SigningKey:
    """The wallet ``number``, from 1."""
    return SigningKey(number.to_bytes(32, "big"))


def address_of(number: int) -> str:
    """Where the wallet ``number`` is."""
    return "0x" + wallet_of(number).address.hex()


def settings_for(data_dir: Path, wallets: int, **flags: Any) -> Settings:
    limits = {"requests_per_minute": 10**7, "tokens_per_minute": 10**10, "requests_in_flight": 4096}
    x402: dict[str, Any] = {}
    if wallets:
        base = {"rpc_url": "http://127.0.0.1:9", "pay_to": "0x" + "5e" * 20, "settlement_key": "11" * 32}
        x402 = {"public_url": URL, "x402": {"enabled": True, "requests_in_flight": 64, "base": base}}
    return load_settings(environ={}, flags={"data_dir": str(data_dir), "limits": limits, **x402, **flags})


async def fill(store: Store, keys: int, wallets: int) -> None:
    """Accounts with a key and credit each, and wallets with credit."""
    now = datetime.now(UTC)

    async def credit(account: AccountId) -> None:
        source = system_account("credit", now)
        name = TransferId(f"credit_{account}")
        await store.ledger.post(Transfer(name, source, account, usd("1000"), TransferCode.CREDIT, now))

    for number in range(keys):
        account = AccountId(f"account_{number}")
        await credit(account)
        await store.keys.add(ApiKey.of_secret(secret_of(number), account, f"key {number}", now))
    await asyncio.gather(*(credit(parse_wallet(address_of(n + 1)).account) for n in range(wallets)))


@asynccontextmanager
async def services_with(data_dir: Path, keys: int = 1, wallets: int = 0) -> AsyncIterator[Services]:
    """What HTTP serves with, in this process."""
    use_instant_engine()
    settings = settings_for(data_dir, wallets)
    async with open_store(settings) as store:
        await fill(store, keys, wallets)
        async with open_services(settings, store, SystemClock()) as services:
            yield services


async def _fill(settings: Settings, keys: int, wallets: int) -> None:
    async with open_store(settings) as store:
        await fill(store, keys, wallets)


def main() -> None:
    port, data_dir, keys, wallets = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    settings = settings_for(data_dir, wallets, port=port)
    asyncio.run(_fill(settings, keys, wallets))
    configure_logging(LogSettings(format="json"))
    use_instant_engine()
    serve(settings)


if __name__ == "__main__":
    main()
