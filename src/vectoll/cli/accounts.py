"""vectoll accounts list, show"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from vectoll.cli.options import ACCOUNT, as_json, with_settings
from vectoll.cli.output import dollars, print_json, print_table, printable
from vectoll.domain.errors import NotFound
from vectoll.domain.identity import ApiKey
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Balance
from vectoll.domain.money import Amount, to_decimal
from vectoll.ports.ledger import UsageQuery
from vectoll.ports.store import Store
from vectoll.settings import Settings


@dataclass(frozen=True, slots=True)
class _Found:
    account: AccountId
    balance: Balance
    held: Amount | None
    """None where only the server knows: with a file, holds are in its memory."""
    active_keys: int


@click.group()
def accounts() -> None:
    """Show accounts: what they have, and which keys spend it."""


@accounts.command("list")
@as_json
@with_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List every account. Shows its credit, what is left of today's allowance, and its active keys."""
    found = asyncio.run(_list(settings))
    if as_json:
        print_json([_describe(each) for each in found])
        return
    rows = [
        (
            each.account,
            dollars(each.balance.balance),
            dollars(each.balance.allowance),
            str(each.active_keys),
        )
        for each in found
    ]
    print_table(("ACCOUNT", "CREDIT", "ALLOWANCE LEFT", "KEYS"), rows)


@accounts.command()
@click.argument("account", type=ACCOUNT)
@as_json
@with_settings
def show(settings: Settings, account: AccountId, as_json: bool) -> None:
    """Show one account. Prints its credit, allowance, what is held for requests in flight, and its active keys."""
    found, keys = asyncio.run(_show(settings, account))
    if as_json:
        print_json({**_describe(found), "keys": [{"id": key.id, "name": key.name} for key in keys]})
        return
    held = "known to the server only" if found.held is None else dollars(found.held)
    balance = found.balance
    click.echo(f"account    {found.account}")
    click.echo(f"credit     {dollars(balance.balance)}")
    click.echo(f"allowance  {dollars(balance.allowance)} left of today's {dollars(balance.granted)}")
    click.echo(f"held       {held}")
    for key in keys:
        click.echo(f"key        {key.id}  {printable(key.name)}")


async def require_account(store: Store, account: AccountId) -> None:
    """Raises NotFound for an account that has never had a key, a transfer or an allowance."""
    if await store.keys.list(account) or await store.ledger.usage(UsageQuery(account, limit=1)):
        return
    if account not in await store.allowances.accounts():
        raise NotFound(f"there is no account {account}")


async def _list(settings: Settings) -> Sequence[_Found]:
    from vectoll.bootstrap import open_store

    now = datetime.now(UTC)
    async with open_store(settings, must_exist=True) as store:
        keys = Counter(key.account for key in await store.keys.list() if key.is_active(now))
        balances = await store.ledger.balances()
    return [_found(settings, account, balances[account], keys[account]) for account in sorted(balances)]


async def _show(settings: Settings, account: AccountId) -> tuple[_Found, Sequence[ApiKey]]:
    from vectoll.bootstrap import open_store

    now = datetime.now(UTC)
    async with open_store(settings, must_exist=True) as store:
        await require_account(store, account)
        keys = await store.keys.active(account, now)
        return _found(settings, account, await store.ledger.balance(account), len(keys)), keys


def _found(settings: Settings, account: AccountId, balance: Balance, active_keys: int) -> _Found:
    return _Found(account, balance, balance.held if settings.database.url else None, active_keys)


def _describe(found: _Found) -> dict[str, Any]:
    balance = found.balance
    return {
        "account": found.account,
        "balance_usd": to_decimal(balance.balance),
        "held_usd": None if found.held is None else to_decimal(found.held),
        "allowance_usd": to_decimal(balance.granted),
        "allowance_left_usd": to_decimal(balance.allowance),
        "active_keys": found.active_keys,
    }
