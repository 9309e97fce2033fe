"""vectoll credit add, remove"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import click

from vectoll.cli import suggest
from vectoll.cli.options import ACCOUNT, DOLLARS, TEXT, as_json, with_settings
from vectoll.cli.output import dollars, print_json
from vectoll.domain.errors import IdempotencyConflict, InsufficientBalance, Unavailable, VectollError
from vectoll.domain.ids import AccountId, KeyId, TransferId, is_generated, new_id
from vectoll.domain.ledger import Balance, Transfer, TransferCode, system_account
from vectoll.domain.money import ZERO, Amount, to_decimal
from vectoll.ports.ledger import Ledger
from vectoll.ports.store import Store
from vectoll.settings import Settings


@click.group()
def credit() -> None:
    """Give accounts prepaid credit, or take it back."""


@credit.command()
@click.option("--account", type=ACCOUNT, help="The account to credit.")
@click.option(
    "--key",
    "key_id",
    shell_complete=suggest.active_keys,
    help="The id of one of the account's keys, instead.",
)
@click.option("--usd", "amount", type=DOLLARS, required=True, help="Dollars, e.g. 5 or 0.25.")
@click.option("--note", type=TEXT, default="", help="Why; kept in the ledger.")
@click.option(
    "--id", "credit_id", type=TEXT, help="An id of your own for this credit: the same id never adds twice."
)
@as_json
@with_settings
def add(
    settings: Settings,
    account: AccountId | None,
    key_id: str | None,
    amount: Amount,
    note: str,
    credit_id: str | None,
    as_json: bool,
) -> None:
    """Add credit to an account. Name it with --account, or with one of its keys."""
    _check(account, key_id, amount)
    credit_id = credit_id or new_id("credit")
    with _may_be_done("the credit may have been added", credit_id):
        transfer, balance, is_new = asyncio.run(_add(settings, account, key_id, amount, credit_id, note))
    if as_json:
        _print_json(transfer, transfer.credit, balance, {"added": is_new})
    elif is_new:
        click.echo(f"Added {dollars(amount)} to {transfer.credit}, which now has {dollars(balance.balance)}.")
    else:
        click.echo(
            f"{dollars(amount)} was already added to {transfer.credit} under this --id, and not again; "
            f"it has {dollars(balance.balance)}."
        )


@credit.command()
@click.option("--account", type=ACCOUNT, help="The account to take credit from.")
@click.option(
    "--key",
    "key_id",
    shell_complete=suggest.active_keys,
    help="The id of one of the account's keys, instead.",
)
@click.option("--usd", "amount", type=DOLLARS, required=True, help="Dollars, e.g. 5 or 0.25.")
@click.option("--note", type=TEXT, default="", help="Why; kept in the ledger.")
@click.option(
    "--id", "removal_id", type=TEXT, help="An id of your own for this: the same id never takes twice."
)
@as_json
@with_settings
def remove(
    settings: Settings,
    account: AccountId | None,
    key_id: str | None,
    amount: Amount,
    note: str,
    removal_id: str | None,
    as_json: bool,
) -> None:
    """Take back credit that was added by mistake. Refused if the account has less."""
    _check(account, key_id, amount)
    removal_id = removal_id or new_id("removal")
    with _may_be_done("the credit may have been taken", removal_id):
        transfer, balance, is_new = asyncio.run(_remove(settings, account, key_id, amount, removal_id, note))
    if as_json:
        _print_json(transfer, transfer.debit, balance, {"removed": is_new})
    elif is_new:
        click.echo(f"Took {dollars(amount)} from {transfer.debit}, which now has {dollars(balance.balance)}.")
    else:
        click.echo(
            f"{dollars(amount)} was already taken from {transfer.debit} under this --id, and not again; "
            f"it has {dollars(balance.balance)}."
        )


@contextmanager
def _may_be_done(what: str, own_id: str) -> Iterator[None]:
    """Says how to repeat a command of which nobody knows whether it was done."""
    try:
        yield
    except (Unavailable, KeyboardInterrupt) as error:
        raise VectollError(
            f"{what}: repeat the command with --id {own_id}, which does nothing twice"
        ) from error


def _check(account: AccountId | None, key_id: str | None, amount: Amount) -> None:
    if (account is None) == (key_id is None):
        raise click.UsageError("Give one of --account and --key.")
    if amount == ZERO:
        raise click.BadParameter("must be more than 0", param_hint="--usd")


def _print_json(transfer: Transfer, account: AccountId, balance: Balance, outcome: dict[str, bool]) -> None:
    print_json(
        {
            "id": transfer.id,
            "account": account,
            "amount_usd": to_decimal(transfer.amount),
            **outcome,
            "balance_usd": to_decimal(balance.balance),
        }
    )


async def _add(
    settings: Settings,
    account: AccountId | None,
    key_id: str | None,
    amount: Amount,
    credit_id: str,
    note: str,
) -> tuple[Transfer, Balance, bool]:
    async with _open(settings, account, key_id) as (store, found):
        transfer, is_new = await grant(store.ledger, found, amount, by_operator(credit_id), note)
        return transfer, await store.ledger.balance(found), is_new


async def _remove(
    settings: Settings,
    account: AccountId | None,
    key_id: str | None,
    amount: Amount,
    removal_id: str,
    note: str,
) -> tuple[Transfer, Balance, bool]:
    now = datetime.now(UTC)
    async with _open(settings, account, key_id) as (store, found):
        wanted = Transfer(
            id=TransferId(f"removal_by_operator_{removal_id}"),
            debit=found,
            credit=system_account("credit", now),
            amount=amount,
            code=TransferCode.CREDIT,
            created_at=now,
            note=note,
        )
        try:
            transfer, is_new = await _post_once(store.ledger, wanted)
        except InsufficientBalance as error:
            raise VectollError(
                f"{found} has {dollars(error.available)}: {dollars(amount)} cannot be taken from it"
            ) from None
        return transfer, await store.ledger.balance(found), is_new


@asynccontextmanager
async def _open(
    settings: Settings, account: AccountId | None, key_id: str | None
) -> AsyncIterator[tuple[Store, AccountId]]:
    """The store, and the account that is meant.

    Raises NotFound for an id of our making that no account has: it is mistyped. A wallet or a JWT's subject may come
    later.
    """
    from vectoll.bootstrap import open_store
    from vectoll.cli.accounts import require_account
    from vectoll.cli.keys import require_key

    async with open_store(settings, must_exist=True) as store:
        if account is None:
            account = (await require_key(store.keys, KeyId(str(key_id)))).account
        elif is_generated(account):
            await require_account(store, account)
        yield store, account


def by_operator(credit_id: str) -> TransferId:
    """The transfer that ``--id`` names."""
    return TransferId(f"credit_by_operator_{credit_id}")


async def grant(
    ledger: Ledger, account: AccountId, amount: Amount, transfer_id: TransferId, note: str
) -> tuple[Transfer, bool]:
    """Post a credit, once per ``transfer_id``: what is stored, and whether it is new.

    Raises VectollError when the id was used for another one.
    """
    now = datetime.now(UTC)
    wanted = Transfer(
        id=transfer_id,
        debit=system_account("credit", now),
        credit=account,
        amount=amount,
        code=TransferCode.CREDIT,
        created_at=now,
        note=note,
    )
    return await _post_once(ledger, wanted)


async def _post_once(ledger: Ledger, wanted: Transfer) -> tuple[Transfer, bool]:
    try:
        stored = await ledger.post(wanted)
    except IdempotencyConflict:
        raise VectollError("this --id was already used for another amount or account") from None
    return stored, stored.created_at == wanted.created_at
