"""What the HTTP layer serves with: filled in by the composition root, read by the routes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from starlette.requests import Request

from vectoll.core.admission import Admission
from vectoll.core.auth import Authentication
from vectoll.core.embed import EmbedService
from vectoll.core.models import ModelRegistry
from vectoll.core.recent_funds import RecentFunds
from vectoll.core.topup import TopUps
from vectoll.core.tracing import Tracer
from vectoll.core.wallet_keys import WalletKeys
from vectoll.http.payment_required import PaymentTerms
from vectoll.ports.clock import Clock
from vectoll.ports.history import AccountHistory
from vectoll.ports.keys import KeyStore
from vectoll.ports.ledger import Ledger
from vectoll.ports.metrics import ServerMetrics
from vectoll.settings import Settings


class Phase(StrEnum):
    """Where the process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True)
class Readiness:
    """Whether a load balancer should send requests here. The composition root moves ``phase`` on."""

    phase: Phase = Phase.STARTING
    is_store_lost: Callable[[], bool] = lambda: False
    """Asks nothing of the store: strangers may ask this as often as they like."""


@dataclass(frozen=True, slots=True)
class WalletServices:
    """What is there where wallets sign in and pay."""

    terms: PaymentTerms
    top_ups: TopUps
    keys: WalletKeys
    history: AccountHistory


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that a route may use."""

    embed: EmbedService
    models: ModelRegistry
    auth: Authentication
    admission: Admission
    ledger: Ledger
    funds: RecentFunds
    keys: KeyStore
    clock: Clock
    settings: Settings
    metrics: ServerMetrics
    readiness: Readiness = field(default_factory=Readiness)
    wallets: WalletServices | None = None
    """None where `x402.enabled` is off."""
    tracer: Tracer | None = None
    """None where `tracing.enabled` is off."""


def services_of(request: Request) -> Services:
    """The services of the application that this request came to."""
    services: Services = request.scope["app"].services
    return services
