"""vectoll allowance set, list"""

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from vectoll.cli.options import ACCOUNT, DOLLARS, as_json, with_settings
from vectoll.cli.output import dollars, print_json, print_table
from vectoll.domain.allowances import DailyAllowance
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount, to_decimal
from vectoll.settings import Settings


@click.group()
def allowance() -> None:
    """Grant and list daily allowances.

    An allowance is new every UTC day, is spent before credit, and is never rolled over.
    """


@allowance.command("set")
@click.option("--account", type=ACCOUNT, required=True, help="The account, or a wallet's address.")
@click.option("--usd-per-day", "per_day", type=DOLLARS, required=True, help="Dollars a day; 0 ends it.")
@as_json
@with_settings
def set_(settings: Settings, account: AccountId, per_day: Amount, as_json: bool) -> None:
    """Grant an account a daily allowance, from today on.

    It replaces what was granted before and adds to what a stake gives. What has been spent today stays spent.
    """
    granted = asyncio.run(_set(settings, account, per_day))
    if as_json:
        print_json(_describe(granted))
    else:
        click.echo(
            f"{granted.account} has {dollars(per_day)} a day; {dollars(granted.left)} of today's is left."
        )


@allowance.command("list")
@as_json
@with_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List today's allowances. Shows what an operator and a stake grant, and what is spent."""
    found = asyncio.run(_list(settings))
    if as_json:
        print_json([_describe(each) for each in found])
        return
    print_table(
        ("ACCOUNT", "PER DAY", "STAKED", "GRANTED TODAY", "SPENT TODAY"),
        [
            (each.account, *map(dollars, (each.per_day, each.staked, each.granted, each.spent)))
            for each in found
        ],
    )


async def _set(settings: Settings, account: AccountId, per_day: Amount) -> DailyAllowance:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        return await store.allowances.grant(account, per_day)


async def _list(settings: Settings) -> Sequence[DailyAllowance]:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        return await store.allowances.list()


def _describe(found: DailyAllowance) -> dict[str, Any]:
    return {
        "account": found.account,
        "usd_per_day": to_decimal(found.per_day),
        "staked_usd": to_decimal(found.staked),
        "granted_today_usd": to_decimal(found.granted),
        "spent_today_usd": to_decimal(found.spent),
    }
