"""Metrics of wallets and payments. Labels come from closed sets: rails, outcomes, states, rules; never an address."""

from decimal import Decimal

from prometheus_client import CollectorRegistry, Counter, Gauge

from vectoll.domain.money import UNITS_PER_USD, Amount
from vectoll.domain.payments import IntentState
from vectoll.domain.siwx import SignInRule
from vectoll.domain.wallets import Family
from vectoll.ports.payment_metrics import TopUpOutcome

_RAILS = {Family.EVM: "base", Family.SOLANA: "solana", None: "none"}
"""As the settings name them; ``none`` is a payment that fits no rail."""


class PrometheusPayments:
    """See ``vectoll.ports.payment_metrics.PaymentMetrics``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self._top_ups = counter(
            "vectoll_top_ups_total",
            "Payments sent by clients, by what they were answered.",
            "rail",
            "outcome",
        )
        self._credited_usd = counter(
            "vectoll_top_ups_credited_usd_total", "Dollars credited, about; the ledger is exact.", "rail"
        )
        self._reversed_usd = counter(
            "vectoll_top_ups_reversed_usd_total", "Dollars of payments that their chain dropped.", "rail"
        )
        self._reconciled = counter(
            "vectoll_payments_reconciled_total",
            "Open payments that the watch brought further.",
            "rail",
            "state",
        )
        self._refused = counter(
            "vectoll_sign_ins_refused_total", "Sign-ins of wallets that did not hold.", "code"
        )
        self._open = Gauge(
            "vectoll_payments_open", "Payments whose outcome is not known now.", ("rail",), registry=registry
        )
        self._funds = Gauge(
            "vectoll_settlement_funds",
            "What the settlement key has for fees, in ether or SOL.",
            ("rail",),
            registry=registry,
        )

    def top_up(self, rail: Family | None, outcome: TopUpOutcome) -> None:
        """A payment was answered."""
        self._top_ups.labels(_RAILS[rail], outcome.value).inc()

    def credited(self, rail: Family, amount: Amount) -> None:
        """A payment was credited. Prometheus knows floats only: this total is for graphs, the ledger is exact."""
        self._credited_usd.labels(_RAILS[rail]).inc(amount / UNITS_PER_USD)

    def reversed(self, rail: Family, amount: Amount) -> None:
        """A credit was taken back."""
        self._reversed_usd.labels(_RAILS[rail]).inc(amount / UNITS_PER_USD)

    def reconciled(self, rail: Family, state: IntentState, is_final: bool) -> None:
        """The watch has brought a payment further."""
        self._reconciled.labels(_RAILS[rail], "final" if is_final else state.value).inc()

    def open_payments(self, rail: Family, count: int) -> None:
        """How many payments are open."""
        self._open.labels(_RAILS[rail]).set(count)

    def settlement_funds(self, rail: Family, coins: Decimal) -> None:
        """What the settlement key has."""
        self._funds.labels(_RAILS[rail]).set(float(coins))

    def sign_in_refused(self, rule: SignInRule) -> None:
        """A sign-in did not hold."""
        self._refused.labels(rule.value).inc()
