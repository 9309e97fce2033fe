"""The composition root: with ``engines``, ``loading``, ``wallets``, ``rails`` and ``databases``, its parts, where a
server's adapters are named.

What not every command needs is imported where it is used, so that `vectoll keys list` does not load an engine.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vectoll.adapters.storage.lock import DataDirLock
from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.adapters.storage.sqlite.connection import DATABASE_NAME
from vectoll.domain.errors import ConfigurationError, Unavailable, Unusable
from vectoll.domain.ledger import Verification
from vectoll.domain.payments import IntentState
from vectoll.http.services import Readiness, Services
from vectoll.loading import open_models
from vectoll.ports.authenticator import Authenticator
from vectoll.ports.clock import Clock
from vectoll.ports.keys import KeyStore
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.metrics import ServerMetrics
from vectoll.ports.progress import Progress
from vectoll.ports.store import Store
from vectoll.settings import Settings, TracingSettings

if TYPE_CHECKING:
    from vectoll.core.tracing import Tracer

_log = logging.getLogger("vectoll.payments")


def check_settings(settings: Settings) -> None:
    """Raises ConfigurationError for whatever ``vectoll serve`` would refuse, as far as can be told without serving."""
    from vectoll.engines import choose_device
    from vectoll.loading import read_served_models

    read_served_models(settings)
    choose_device(settings.engine)
    _check_allowance(settings)
    _jwt_authenticators(settings)
    if settings.x402.enabled:
        from vectoll.wallets import check_wallets

        check_wallets(settings)


def _check_allowance(settings: Settings) -> None:
    if settings.allowance.enabled and not settings.x402.enabled:
        raise ConfigurationError("allowance.enabled needs x402.enabled")


def lock_data_dir(settings: Settings) -> AbstractContextManager[object]:
    """A context in which this process alone serves from the data directory. Entering raises ConfigurationError.

    With a database there is nothing to lock: any number of gateways may serve from it.
    """
    return nullcontext() if settings.database.url else DataDirLock(Path(settings.data_dir))


def has_ledger(settings: Settings) -> bool:
    """Whether the data directory has a ledger. Always true of a database: one without a schema cannot be opened.

    Raises Unusable where that cannot be told.
    """
    if settings.database.url:
        return True
    ledger = Path(settings.data_dir) / DATABASE_NAME
    try:
        ledger.stat()  # Path.exists is silent about errors since Python 3.14
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise Unusable(f"cannot read the data directory {settings.data_dir}: {error.strerror}") from None
    return True


@asynccontextmanager
async def open_store(
    settings: Settings, clock: Clock | None = None, *, must_exist: bool = False
) -> AsyncIterator[Store]:
    """The ledger, the keys and all else, in the database or the data directory. Safe beside servers that use it.

    Raises ConfigurationError; with ``must_exist`` also where it would have to make a new data directory.
    """
    if settings.database.url:
        from vectoll.databases import open_shared_store

        async with open_shared_store(settings, clock) as shared:
            yield shared
        return
    if must_exist and not has_ledger(settings):
        raise ConfigurationError(f"there is no ledger in {settings.data_dir}: check --data-dir")
    store = await open_sqlite(Path(settings.data_dir), clock)
    try:
        yield store
    finally:
        await store.close()


def back_up_store(settings: Settings, file: Path, *, replace: bool, progress: Progress) -> Verification:
    """Copy the ledger to ``file`` while it is in use, and verify the copy. Raises ConfigurationError."""
    from vectoll.adapters.storage.sqlite.backup import back_up

    _require_file(settings)
    if not has_ledger(settings):
        raise ConfigurationError(f"there is no ledger in {settings.data_dir}: check --data-dir")
    return back_up(Path(settings.data_dir), file, replace=replace, progress=progress)


def restore_store(settings: Settings, file: Path, *, replace: bool, progress: Progress) -> Verification:
    """Make a backup the ledger, while no server uses the data directory. Raises ConfigurationError."""
    from vectoll.adapters.storage.sqlite.backup import restore

    _require_file(settings)
    with lock_data_dir(settings):
        return restore(file, Path(settings.data_dir), replace=replace, progress=progress)


def _require_file(settings: Settings) -> None:
    """Raises ConfigurationError where the ledger is in a database, which has tools of its own."""
    if settings.database.url:
        raise ConfigurationError("the ledger is in the database: use pg_dump and pg_restore")


@asynccontextmanager
async def open_services(settings: Settings, store: Store, clock: Clock) -> AsyncIterator[Services]:
    """Everything that HTTP serves with, models loaded. Raises ConfigurationError."""
    from vectoll.adapters.metrics import PrometheusMetrics
    from vectoll.core.admission import Admission
    from vectoll.core.auth import Authentication
    from vectoll.core.billing import Billing
    from vectoll.core.embed import EmbedService
    from vectoll.core.recent_funds import RecentFunds
    from vectoll.core.recent_keys import RecentKeys
    from vectoll.core.tracing import TracedAuthenticator, TracedMetrics

    counted = PrometheusMetrics()
    metrics: ServerMetrics = counted
    limiter, keys = _limiter(settings, store), RecentKeys(store.keys)
    authenticators = _authenticators(settings, keys, clock)
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(open_tracer(settings.tracing))
        wallets = None
        _check_allowance(settings)
        if settings.x402.enabled:
            from vectoll.wallets import open_wallets

            wallets = await stack.enter_async_context(
                open_wallets(settings, store, limiter, clock, counted.payments)
            )
            authenticators = [wallets.authenticator, *authenticators]  # a sign-in wins over a key
        await _tell_unwatched(store, wallets.services.terms.networks if wallets else frozenset())
        if tracer:
            metrics, authenticators = TracedMetrics(metrics), [TracedAuthenticator(a) for a in authenticators]
        models = await stack.enter_async_context(open_models(settings, metrics))
        yield Services(
            embed=EmbedService(models, Billing(store.ledger, metrics, clock), metrics),
            models=models,
            auth=Authentication(authenticators),
            admission=Admission(limiter, settings.limits),
            ledger=store.ledger,
            funds=RecentFunds(store.ledger),
            keys=keys,
            clock=clock,
            settings=settings,
            metrics=metrics,
            readiness=Readiness(is_store_lost=lambda: store.is_lost),
            wallets=wallets.services if wallets else None,
            tracer=tracer,
        )


async def _tell_unwatched(store: Store, networks: AbstractSet[str]) -> None:
    """Log the payments that are open on networks no longer configured: nobody would see them arrive."""
    with suppress(Unavailable):
        open_ = [i for i in await store.payments.open() if i.state is not IntentState.RECEIVED]
        for network, count in Counter(i.network for i in open_ if i.network not in networks).items():
            _log.warning("payments_not_watched", extra={"network": network, "payments": count})


@asynccontextmanager
async def open_tracer(settings: TracingSettings) -> AsyncIterator["Tracer | None"]:
    """What traces requests; None where tracing is off. Raises ConfigurationError where its extra is not installed.

    For every process that serves, gateways and replicas alike.
    """
    if not settings.enabled or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield None
        return
    from vectoll.core.tracing import Tracer

    try:
        from vectoll.adapters.otel import OtelSpans
    except ModuleNotFoundError:
        raise ConfigurationError(
            'tracing.enabled needs OpenTelemetry: pip install ".[otel]" in vectoll\'s checkout'
        ) from None
    spans = OtelSpans(settings.endpoint, settings.sample_ratio)
    try:
        yield Tracer(spans)
    finally:
        await asyncio.to_thread(spans.close)


def _limiter(settings: Settings, store: Store) -> RateLimiter:
    """One count for all gateways where they share a database."""
    if settings.database.url:
        from vectoll.databases import shared_limiter

        return shared_limiter(store)
    from vectoll.adapters.limiter import MemoryRateLimiter

    return MemoryRateLimiter()


def _authenticators(settings: Settings, keys: KeyStore, clock: Clock) -> Sequence[Authenticator]:
    from vectoll.core.auth import KeyAuthenticator

    return [KeyAuthenticator(keys, clock), *_jwt_authenticators(settings)]


def _jwt_authenticators(settings: Settings) -> Sequence[Authenticator]:
    """Raises ConfigurationError for key files that cannot be used."""
    if not settings.jwt.public_key_files and not settings.jwt.jwks_file:
        return []
    from vectoll.adapters.jwt import JwtAuthenticator

    return [JwtAuthenticator(settings.jwt)]
