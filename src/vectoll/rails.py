"""The part of the composition root that is about payments: the configured rails, and the state machine over them.

Nothing here is imported unless ``x402.enabled`` is on.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.chains.secp256k1 import SigningKey
from vectoll.adapters.chains.solana import SolanaKey, token_account
from vectoll.adapters.payments.base import BaseRail
from vectoll.adapters.payments.eip3009 import Eip3009
from vectoll.adapters.payments.facilitator import FacilitatorRail
from vectoll.adapters.payments.solana import SolanaRail
from vectoll.adapters.payments.spl import Spl
from vectoll.core.topup import TopUps
from vectoll.core.topup_settle import Waiting
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.payments import PaymentOption
from vectoll.domain.siwx import BASE, BASE_SEPOLIA, SOLANA, SOLANA_DEVNET
from vectoll.domain.urls import is_http_url
from vectoll.domain.wallets import Family, base58_decode, base58_encode, parse_wallet
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics
from vectoll.ports.payments import Rail
from vectoll.ports.store import Store
from vectoll.settings import BaseSettings, Settings, SolanaSettings

_BASE_USDC: Mapping[str, tuple[str, str]] = {
    BASE: ("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin"),
    BASE_SEPOLIA: ("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC"),
}
_SOLANA_USDC: Mapping[str, str] = {
    SOLANA: "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
    SOLANA_DEVNET: "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
}


@asynccontextmanager
async def open_top_ups(
    settings: Settings,
    store: Store,
    limiter: RateLimiter,
    clock: Clock,
    metrics: PaymentMetrics = NO_PAYMENT_METRICS,
    *,
    may_send: bool,
) -> AsyncIterator[TopUps]:
    """The configured rails and the state machine over them, watching nothing yet.

    ``may_send`` is False where another process serves from the data directory: only one may send payments.
    """
    rails = make_rails(settings)
    waiting = Waiting(settings.x402.settle_timeout_s)
    is_alone = may_send and settings.database.url is None
    top_ups = TopUps(rails, store.payments, store.ledger, limiter, clock, waiting, metrics, is_alone=is_alone)
    try:
        yield top_ups
    finally:
        await top_ups.close()
        for rail in rails:
            await rail.close()


def make_rails(settings: Settings) -> Sequence[Rail]:
    """Every configured network, Base first. Raises ConfigurationError for one that is only half configured."""
    rails: list[Rail] = []
    if _is_configured("x402.base", _settings_of(settings.x402.base)):
        rails.append(_base(settings.x402.base))
    if _is_configured("x402.solana", _settings_of(settings.x402.solana)):
        rails.append(_solana(settings.x402.solana))
    if not rails:
        raise ConfigurationError(
            "payments need x402.base or x402.solana: rpc_url, pay_to, and settlement_key or facilitator_url"
        )
    return rails


def _settings_of(rail: BaseSettings | SolanaSettings) -> Mapping[str, str | None]:
    return {name: getattr(rail, name) for name in ("rpc_url", "pay_to", "settlement_key", "facilitator_url")}


def _is_configured(table: str, given: Mapping[str, str | None]) -> bool:
    """Whether a rail is configured. Raises ConfigurationError where it is only half configured."""
    if not any(given.values()):
        return False
    for name in ("rpc_url", "pay_to"):
        if not given[name]:
            raise ConfigurationError(f"{table} is half configured: set {table}.{name}")
    if bool(given["settlement_key"]) == bool(given["facilitator_url"]):
        raise ConfigurationError(
            f"{table}: set exactly one of {table}.settlement_key and {table}.facilitator_url"
        )
    for name in ("rpc_url", "facilitator_url"):
        if (url := given[name]) and not is_http_url(url):
            raise ConfigurationError(f"{table}.{name} must be an http(s) URL")
    return True


def _base(settings: BaseSettings) -> Rail:
    asset, name = _BASE_USDC[settings.network]
    extra = {"name": settings.asset_name or name, "version": settings.asset_version}
    option = PaymentOption(
        settings.network,
        checked_address("x402.base.asset", settings.asset or asset, Family.EVM),
        checked_address("x402.base.pay_to", _required(settings.pay_to), Family.EVM),
        extra,
    )
    rpc = JsonRpc(_required(settings.rpc_url))
    token = Eip3009(rpc, option, settings.confirmations)
    if settings.facilitator_url:
        return FacilitatorRail(settings.facilitator_url, settings.facilitator_headers, token, rpc)
    return BaseRail(rpc, token, _evm_key(_required(settings.settlement_key)))


def _solana(settings: SolanaSettings) -> Rail:
    mint = checked_address(
        "x402.solana.asset", settings.asset or _SOLANA_USDC[settings.network], Family.SOLANA
    )
    pay_to = checked_address("x402.solana.pay_to", _required(settings.pay_to), Family.SOLANA)
    key = _solana_key(settings.settlement_key) if settings.settlement_key else None
    if key is None and settings.fee_payer is None:
        raise ConfigurationError("x402.solana.facilitator_url needs x402.solana.fee_payer")
    fee_payer = base58_encode(key.public_key) if key else _required(settings.fee_payer)
    account = base58_encode(token_account(base58_decode(pay_to), base58_decode(mint)))
    extra = {"feePayer": checked_address("x402.solana.fee_payer", fee_payer, Family.SOLANA)}
    rpc = JsonRpc(_required(settings.rpc_url))
    token = Spl(rpc, PaymentOption(settings.network, mint, pay_to, extra, account))
    if key is None:
        url = _required(settings.facilitator_url)
        return FacilitatorRail(url, settings.facilitator_headers, token, rpc)
    return SolanaRail(rpc, token, key)


def _evm_key(text: str) -> SigningKey:
    try:
        return SigningKey(bytes.fromhex(text.strip().removeprefix("0x")))
    except ValueError:
        raise ConfigurationError("x402.base.settlement_key must be a private key: 64 hex digits") from None


def _solana_key(text: str) -> SolanaKey:
    try:
        return SolanaKey(base58_decode(text.strip()))
    except ValueError:
        raise ConfigurationError(
            "x402.solana.settlement_key must be a key pair: base58 of 64 bytes"
        ) from None


def checked_address(name: str, text: str, family: Family) -> str:
    """The address as the operator wrote it, which for EVM may carry a checksum in its case."""
    try:
        if parse_wallet(text).family is family:
            return text
    except ValueError:
        pass
    raise ConfigurationError(f"{name} must be {'an EVM' if family is Family.EVM else 'a Solana'} address")


def _required(value: str | None) -> str:
    assert value, "checked by _is_configured"
    return value
