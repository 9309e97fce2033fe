"""vectoll usage"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import click

from vectoll.cli.options import ACCOUNT, PAST, as_json, with_settings
from vectoll.cli.output import dollars, print_json, print_table
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount, to_decimal
from vectoll.ports.history import ChargeTotal
from vectoll.settings import Settings


@click.command()
@click.option(
    "--since",
    type=PAST,
    default="30d",
    show_default=True,
    help="A date, or a span back from now such as 24h.",
)
@click.option("--account", type=ACCOUNT, help="Only this account's charges.")
@as_json
@with_settings
def usage(settings: Settings, since: datetime, account: AccountId | None, as_json: bool) -> None:
    """Show what was charged, by account, key and model."""
    totals = asyncio.run(_totals(settings, since, account))
    if as_json:
        print_json(
            [
                {
                    "account": total.account,
                    "key": total.key,
                    "model": total.model,
                    "requests": total.requests,
                    "tokens": total.tokens,
                    "charged_usd": to_decimal(total.amount),
                }
                for total in totals
            ]
        )
        return
    everything = Amount(sum(total.amount for total in totals))
    print_table(
        ("ACCOUNT", "KEY", "MODEL", "REQUESTS", "TOKENS", "CHARGED"),
        [
            (
                t.account,
                t.key or "",
                t.model or "",
                f"{t.requests:,}",
                f"{t.tokens:,}",
                dollars(t.amount),
            )
            for t in totals
        ],
    )
    click.echo(f"{dollars(everything)} since {since:%Y-%m-%d %H:%M} UTC.")


async def _totals(settings: Settings, since: datetime, account: AccountId | None) -> Sequence[ChargeTotal]:
    from vectoll.bootstrap import open_store
    from vectoll.cli.accounts import require_account

    async with open_store(settings, must_exist=True) as store:
        totals = await store.history.charge_totals(since, account)
        if account and not totals:
            await require_account(store, account)
        return totals
