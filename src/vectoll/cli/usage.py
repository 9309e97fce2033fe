"""vectoll usage"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import click

from vectoll.cli.options import ACCOUNT, PAST, as_json, with_settings
from vectoll.cli.output import print_json, print_table
from vectoll.domain.identity import LimitPeriod
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Transfer, TransferCode, system_account
from vectoll.domain.money import ZERO, Amount, format_usd, to_decimal
from vectoll.ports.ledger import Ledger, UsageQuery
from vectoll.settings import Settings

PAGE = 10_000


@dataclass(slots=True)
class Total:
    """What one key spent on one model."""

    requests: int = 0
    tokens: int = 0
    amount: Amount = ZERO

    def add(self, charge: Transfer) -> None:
        """Count one charge."""
        self.requests += 1
        self.tokens += charge.tokens
        self.amount = Amount(self.amount + charge.amount)


Totals = dict[tuple[str, str, str], Total]
"""By account, key and model; "" where there is none."""


@click.command()
@click.option("--since", type=PAST, default="30d", show_default=True, help="A date, or a span such as 24h.")
@click.option("--account", type=ACCOUNT, help="Only this account's.")
@as_json
@with_settings
def usage(settings: Settings, since: datetime, account: AccountId | None, as_json: bool) -> None:
    """Show what was charged, by account, key and model."""
    totals = asyncio.run(_totals(settings, since, account))
    ordered = sorted(totals.items(), key=lambda item: -item[1].amount)
    if as_json:
        print_json(
            [
                {
                    "account": name,
                    "key": key or None,
                    "model": model or None,
                    "requests": total.requests,
                    "tokens": total.tokens,
                    "charged_usd": to_decimal(total.amount),
                }
                for (name, key, model), total in ordered
            ]
        )
        return
    everything = Amount(sum(total.amount for total in totals.values()))
    print_table(
        ("ACCOUNT", "KEY", "MODEL", "REQUESTS", "TOKENS", "CHARGED"),
        [
            (name, key, model, f"{t.requests:,}", f"{t.tokens:,}", f"${format_usd(t.amount)}")
            for (name, key, model), t in ordered
        ],
    )
    click.echo(f"${format_usd(everything)} since {since:%Y-%m-%d %H:%M} UTC.")


async def _totals(settings: Settings, since: datetime, account: AccountId | None) -> Totals:
    from vectoll.bootstrap import open_store

    totals: Totals = defaultdict(Total)
    async with open_store(settings, must_exist=True) as store:
        for payee in [account] if account else _revenue_accounts(since):
            async for charge in _charges(store.ledger, payee, since):
                totals[charge.debit, charge.key or "", charge.model or ""].add(charge)
    return totals


def _revenue_accounts(since: datetime) -> Iterator[AccountId]:
    """Where charges went: one account a month."""
    month, now = LimitPeriod.MONTH.start(since), datetime.now(UTC)
    while month <= now:
        yield system_account("revenue", month)
        month = LimitPeriod.MONTH.start(month + timedelta(days=31))


async def _charges(ledger: Ledger, account: AccountId, since: datetime) -> AsyncIterator[Transfer]:
    query = UsageQuery(account, start=since, code=TransferCode.CHARGE, limit=PAGE)
    while page := await ledger.usage(query):
        for charge in page:
            yield charge
        query = replace(query, after_seq=page[-1].seq)
