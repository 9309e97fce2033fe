"""vectoll payments list, show, reconcile"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json, print_table, printable
from vectoll.domain.errors import ConfigurationError, NotFound
from vectoll.domain.money import format_usd, to_decimal
from vectoll.domain.payments import Intent, IntentState, PaymentId, usdc_amount
from vectoll.settings import Settings


@click.group()
def payments() -> None:
    """Show payments by wallets, and look for open ones."""


@payments.command("list")
@click.option(
    "--state", type=click.Choice([state.value for state in IntentState]), help="Only payments in this state."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
@with_settings
def list_(settings: Settings, state: str | None, limit: int, as_json: bool) -> None:
    """List payments, newest first."""
    found = asyncio.run(_list(settings, IntentState(state) if state else None, limit))
    _print(found, as_json)


@payments.command()
@click.argument("payment")
@as_json
@with_settings
def show(settings: Settings, payment: str, as_json: bool) -> None:
    """Show one payment, by its id."""
    described = _describe(asyncio.run(_get(settings, PaymentId(payment))))
    if as_json:
        print_json(described)
        return
    for name, value in described.items():
        click.echo(f"{name:<14} {'-' if value is None else printable(str(value))}")


@payments.command()
@as_json
@with_settings
def reconcile(settings: Settings, as_json: bool) -> None:
    """Ask the chains about every open payment, once.

    Prints those that changed. Beside a running server it only looks and sends nothing: the two would compete for the
    settlement key.
    """
    changed = asyncio.run(_reconcile(settings))
    _print(changed, as_json)


async def _list(settings: Settings, state: IntentState | None, limit: int) -> Sequence[Intent]:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        return await store.payments.list(state, limit)


async def _get(settings: Settings, payment: PaymentId) -> Intent:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        intent = await store.payments.get(payment)
    if intent is None:
        raise NotFound("there is no payment with this id")
    return intent


async def _reconcile(settings: Settings) -> Sequence[Intent]:
    from vectoll.adapters.limiter import MemoryRateLimiter
    from vectoll.bootstrap import lock_data_dir, open_store
    from vectoll.ports.clock import SystemClock
    from vectoll.rails import open_top_ups

    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings, clock, must_exist=True))
        try:
            stack.enter_context(lock_data_dir(settings))
            may_send = True
        except ConfigurationError:  # a server has it
            may_send = False
        limiter = MemoryRateLimiter()
        top_ups = await stack.enter_async_context(
            open_top_ups(settings, store, limiter, clock, may_send=may_send)
        )
        return await top_ups.reconcile(may_send=may_send)


def _print(intents: Sequence[Intent], as_json: bool) -> None:
    if as_json:
        print_json([_describe(intent) for intent in intents])
        return
    rows = [
        (
            f"{intent.created_at:%Y-%m-%d %H:%M:%S}",
            intent.state.value + (" (final)" if intent.is_final else ""),
            f"${format_usd(usdc_amount(intent.base_units))}",
            intent.network,
            intent.payer,
            intent.id,
        )
        for intent in intents
    ]
    print_table(("CREATED", "STATE", "USD", "NETWORK", "PAYER", "ID"), rows)


def _describe(intent: Intent) -> dict[str, Any]:
    return {
        "id": intent.id,
        "state": intent.state.value,
        "is_final": intent.is_final,
        "usd": to_decimal(usdc_amount(intent.base_units)),
        "network": intent.network,
        "payer": intent.payer,
        "transaction": intent.tx,
        "reason": intent.reason or None,
        "created_at": intent.created_at.isoformat(),
        "updated_at": intent.updated_at.isoformat(),
    }
