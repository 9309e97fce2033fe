"""PrometheusPayments: what GET /metrics says about wallets."""

from decimal import Decimal

from vectoll.adapters.metrics import PrometheusMetrics
from vectoll.domain.money import usd
from vectoll.domain.payments import IntentState
from vectoll.domain.siwx import SignInRule
from vectoll.domain.wallets import Family
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics, TopUpOutcome


def test_each_report_is_a_series_of_its_own_and_names_rails_as_the_settings_do() -> None:
    metrics = PrometheusMetrics()
    everything: list[PaymentMetrics] = [metrics.payments, NO_PAYMENT_METRICS]
    for payments in everything:
        payments.top_up(Family.SOLANA, TopUpOutcome.UNKNOWN)
        payments.top_up(None, TopUpOutcome.REFUSED)
        payments.credited(Family.EVM, usd("12.5"))
        payments.reversed(Family.EVM, usd("5"))
        payments.reconciled(Family.EVM, IntentState.CREDITED, is_final=True)
        payments.reconciled(Family.SOLANA, IntentState.FAILED, is_final=False)
        payments.open_payments(Family.SOLANA, 3)
        payments.settlement_funds(Family.EVM, Decimal("0.25"))
        payments.sign_in_refused(SignInRule.REPLAYED)
    lines = metrics.render().decode().splitlines()
    assert [line for line in lines if line.startswith(("vectoll_top_ups", "vectoll_pay"))] == [
        'vectoll_top_ups_total{outcome="unknown",rail="solana"} 1.0',
        'vectoll_top_ups_total{outcome="refused",rail="none"} 1.0',
        'vectoll_top_ups_credited_usd_total{rail="base"} 12.5',
        'vectoll_top_ups_reversed_usd_total{rail="base"} 5.0',
        'vectoll_payments_reconciled_total{rail="base",state="final"} 1.0',
        'vectoll_payments_reconciled_total{rail="solana",state="failed"} 1.0',
        'vectoll_payments_open{rail="solana"} 3.0',
    ]
    assert 'vectoll_settlement_funds{rail="base"} 0.25' in lines
    assert 'vectoll_sign_ins_refused_total{code="X402_SIGN_IN_REPLAYED"} 1.0' in lines
