"""Top-ups as tests drive them: a service over a rail, a store and a ledger, and payment headers."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.chains.secp256k1 import SigningKey
from vectoll.adapters.chains.solana import SolanaKey, token_account
from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.payments.base import BaseRail
from vectoll.adapters.payments.eip3009 import Eip3009
from vectoll.adapters.payments.solana import SolanaRail
from vectoll.adapters.payments.spl import Spl
from vectoll.adapters.storage.memory import MemoryStore
from vectoll.adapters.storage.sqlite import SqliteStore
from vectoll.core.topup import TopUps
from vectoll.core.topup_settle import Waiting
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.domain.payments import PaymentOption
from vectoll.domain.siwx import BASE, SOLANA
from vectoll.domain.wallets import base58_decode, base58_encode
from vectoll.ports.clock import SystemClock
from vectoll.ports.payments import Rail

Store = MemoryStore | SqliteStore


@dataclass
class Service:
    """Top-ups and what they work on."""

    top_ups: TopUps
    store: Store

    async def balance(self, wallet: str) -> Amount:
        return (await self.store.ledger.balance(AccountId(wallet))).balance


def base_option(asset: str, pay_to: str) -> PaymentOption:
    return PaymentOption(BASE, asset, pay_to, {"name": "USD Coin", "version": "2"})


def base_rail(url: str, asset: str, pay_to: str, key: bytes, confirmations: int = 1) -> BaseRail:
    rpc = JsonRpc(url)
    return BaseRail(rpc, Eip3009(rpc, base_option(asset, pay_to), confirmations), SigningKey(key))


def solana_rail(url: str, mint: str, pay_to: str, pair: bytes) -> SolanaRail:
    key = SolanaKey(pair)
    account = token_account(base58_decode(pay_to), base58_decode(mint))
    extra = {"feePayer": base58_encode(key.public_key)}
    option = PaymentOption(SOLANA, mint, pay_to, extra, base58_encode(account))
    rpc = JsonRpc(url)
    return SolanaRail(rpc, Spl(rpc, option), key)


def service(rails: Sequence[Rail], store: Store, timeout_s: float = 5) -> Service:
    waiting = Waiting(timeout_s=timeout_s, poll_s=0.02)
    return Service(
        TopUps(rails, store.payments, store.ledger, MemoryRateLimiter(), SystemClock(), waiting), store
    )


def header(payload: dict[str, Any], **changes: Any) -> str:
    """x402 v2, as ``@x402/fetch`` sends it."""
    document = {
        "x402Version": 2,
        "accepted": {"scheme": "exact", "network": BASE},
        "payload": payload,
    } | changes
    return encode(document)


def encode(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()
