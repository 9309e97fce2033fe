"""The part of the composition root that is about wallets: sign-in, payments, and what watches over both.

Nothing here is imported unless ``x402.enabled`` is on.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from decimal import Context, Decimal
from urllib.parse import urlsplit

from vectoll.adapters.chains.network import NetworkCheck
from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.chains.stakes import EvmStakes
from vectoll.adapters.wallets.contracts import Eip1271Verifier
from vectoll.adapters.wallets.evm import EvmSignatureVerifier
from vectoll.adapters.wallets.solana import SolanaSignatureVerifier
from vectoll.core.signin import SiwxAuthenticator
from vectoll.core.stakes import StakedAllowances
from vectoll.core.wallet_keys import WalletKeys
from vectoll.core.wallet_signatures import ContractWallets, WalletSignatures
from vectoll.domain.allowances import TOKEN_DECIMALS
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.siwx import SignInRules, host_of
from vectoll.domain.urls import is_http_url
from vectoll.domain.wallets import Family
from vectoll.http.payment_required import PaymentTerms
from vectoll.http.services import WalletServices
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics
from vectoll.ports.store import Store
from vectoll.ports.wallets import SignatureVerifier
from vectoll.rails import checked_address, make_rails, open_top_ups
from vectoll.settings import BaseSettings, Settings, SolanaSettings

NETWORK_TIMEOUT_S = 3.0
"""How long the start waits for a chain."""


@dataclass(frozen=True, slots=True)
class Wallets:
    """What HTTP needs so that wallets can sign in and pay."""

    authenticator: SiwxAuthenticator
    services: WalletServices


@asynccontextmanager
async def open_wallets(
    settings: Settings,
    store: Store,
    limiter: RateLimiter,
    clock: Clock,
    metrics: PaymentMetrics = NO_PAYMENT_METRICS,
) -> AsyncIterator[Wallets]:
    """Sign-in and payments, with open payments watched in the background. Raises ConfigurationError."""
    public_url = _public_url(settings)
    async with AsyncExitStack() as stack:
        top_ups = await stack.enter_async_context(
            open_top_ups(settings, store, limiter, clock, metrics, may_send=True)
        )
        await stack.enter_async_context(_checked_networks(settings))
        rpc_url = settings.x402.base.rpc_url
        evm = {o.network: JsonRpc(rpc_url) for o in top_ups.options if rpc_url and o.family is Family.EVM}
        for rpc in evm.values():
            stack.push_async_callback(rpc.close)
        verifiers: dict[Family, SignatureVerifier] = {
            Family.EVM: EvmSignatureVerifier(),
            Family.SOLANA: SolanaSignatureVerifier(),
        }
        signatures = WalletSignatures(verifiers, ContractWallets(Eip1271Verifier(evm), limiter))
        authenticator = SiwxAuthenticator(
            SignInRules(_domains(settings, public_url), frozenset(o.network for o in top_ups.options)),
            signatures,
            store.nonces,
            clock,
            metrics,
        )
        watch = asyncio.create_task(top_ups.watch(settings.x402.reconcile_interval_s))
        stack.push_async_callback(_stop, watch)
        if settings.allowance.enabled:
            await stack.enter_async_context(watch_stakes(settings, store, clock))
        keys = WalletKeys(urlsplit(public_url).netloc, signatures, store.nonces, clock, tuple(evm), metrics)
        terms = PaymentTerms(public_url, top_ups.options)
        yield Wallets(authenticator, WalletServices(terms, top_ups, keys, store.history))


def check_wallets(settings: Settings) -> None:
    """Raises ConfigurationError for what ``open_wallets`` would refuse. Asks nobody."""
    _domains(settings, _public_url(settings))
    make_rails(settings)
    if settings.allowance.enabled:
        _stakes(settings)


@asynccontextmanager
async def _checked_networks(settings: Settings) -> AsyncIterator[None]:
    """Ask every configured endpoint which chain it serves; one that does not answer is logged, and asked again later.

    Raises ConfigurationError for one that serves another chain than ``network``.
    """
    tables: dict[str, BaseSettings | SolanaSettings] = {
        "x402.base": settings.x402.base,
        "x402.solana": settings.x402.solana,
    }
    async with AsyncExitStack() as stack:
        checks = []
        for table, rail in tables.items():
            if rail.rpc_url:
                rpc = JsonRpc(rail.rpc_url, NETWORK_TIMEOUT_S)
                stack.push_async_callback(rpc.close)
                checks.append(NetworkCheck(table, rail.network, rpc))
        await asyncio.gather(*(check.run() for check in checks))
        for check in checks:
            again = asyncio.create_task(check.repeat(settings.x402.reconcile_interval_s))
            stack.push_async_callback(_stop, again)
        yield


@asynccontextmanager
async def watch_stakes(settings: Settings, store: Store, clock: Clock) -> AsyncIterator[None]:
    """Stakes become daily allowances in the background. Raises ConfigurationError."""
    token, minimum, rpc_url = _stakes(settings)
    rpc = JsonRpc(rpc_url)
    watch = asyncio.create_task(
        StakedAllowances(store.allowances, EvmStakes(rpc, token), clock, minimum).watch()
    )
    try:
        yield
    finally:
        await _stop(watch)
        await rpc.close()


def _stakes(settings: Settings) -> tuple[str, int, str]:
    """The token's contract, the smallest stake in base units, and where to ask. Raises ConfigurationError."""
    token = checked_address("allowance.token", settings.allowance.token, Family.EVM)
    minimum = _base_units(settings.allowance.minimum_units)
    if not settings.x402.base.rpc_url:
        raise ConfigurationError("allowance.enabled needs x402.base.rpc_url")
    return token, minimum, settings.x402.base.rpc_url


def _base_units(text: str) -> int:
    """A number of whole tokens in base units. Raises ConfigurationError."""
    if re.fullmatch(rf"\d{{1,18}}(\.\d{{1,{TOKEN_DECIMALS}}})?", text, re.ASCII):
        return int(Decimal(text).scaleb(TOKEN_DECIMALS, Context(prec=60)))
    raise ConfigurationError("allowance.minimum_units must be a number of tokens, e.g. 0.1")


def _public_url(settings: Settings) -> str:
    url = (settings.public_url or "").rstrip("/")
    if not is_http_url(url):
        raise ConfigurationError(
            "x402.enabled needs public_url: how clients reach this server, e.g. https://api.example.com"
        )
    return url


def _domains(settings: Settings, public_url: str) -> frozenset[str]:
    hosts = [host_of(domain) for domain in settings.siwx.domains or (public_url,)]
    return frozenset(host for host in hosts if host)


async def _stop(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
