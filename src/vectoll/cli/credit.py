"""vectoll credit add"""

import asyncio
from datetime import UTC, datetime

import click

from vectoll.cli.options import ACCOUNT, DOLLARS, TEXT, as_json, with_settings
from vectoll.cli.output import print_json
from vectoll.domain.errors import IdempotencyConflict, Unavailable, VectollError
from vectoll.domain.ids import AccountId, KeyId, TransferId, new_id
from vectoll.domain.ledger import Balance, Transfer, TransferCode, system_account
from vectoll.domain.money import ZERO, Amount, format_usd, to_decimal
from vectoll.ports.ledger import Ledger
from vectoll.settings import Settings


@click.group()
def credit() -> None:
    """Give accounts prepaid credit."""


@credit.command()
@click.option("--account", type=ACCOUNT, help="The account to credit.")
@click.option("--key", "key_id", help="The id of a key of the account to credit.")
@click.option("--usd", "amount", type=DOLLARS, required=True, help="How much.")
@click.option("--note", type=TEXT, default="", help="Why; kept in the ledger.")
@click.option(
    "--id", "credit_id", type=TEXT, help="Your own id for this credit: repeating it adds nothing more."
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
    """Add credit to an account, named itself or by one of its keys."""
    if (account is None) == (key_id is None):
        raise click.UsageError("Give one of --account and --key.")
    if amount == ZERO:
        raise click.BadParameter("must be more than 0", param_hint="--usd")
    credit_id = credit_id or new_id("credit")
    try:
        transfer, balance = asyncio.run(_add(settings, account, key_id, amount, credit_id, note))
    except (Unavailable, KeyboardInterrupt) as error:
        raise VectollError(
            f"the credit may have been added: repeat the command with --id {credit_id}, which adds nothing twice"
        ) from error
    if as_json:
        print_json(
            {
                "id": transfer.id,
                "account": transfer.credit,
                "amount_usd": to_decimal(transfer.amount),
                "balance_usd": to_decimal(balance.balance),
            }
        )
    else:
        click.echo(
            f"Added ${format_usd(amount)} to {transfer.credit}, which now has ${format_usd(balance.balance)}."
        )


async def _add(
    settings: Settings,
    account: AccountId | None,
    key_id: str | None,
    amount: Amount,
    credit_id: str,
    note: str,
) -> tuple[Transfer, Balance]:
    from vectoll.bootstrap import open_store
    from vectoll.cli.keys import require_key

    async with open_store(settings) as store:
        if account is None:
            account = (await require_key(store.keys, KeyId(str(key_id)))).account
        transfer = await grant(store.ledger, account, amount, by_operator(credit_id), note)
        return transfer, await store.ledger.balance(account)


def by_operator(credit_id: str) -> TransferId:
    """The transfer that ``--id`` names."""
    return TransferId(f"credit_by_operator_{credit_id}")


async def grant(ledger: Ledger, account: AccountId, amount: Amount, transfer_id: str, note: str) -> Transfer:
    """Post a credit, once per ``transfer_id``. Raises VectollError when the id was used for another one."""
    now = datetime.now(UTC)
    try:
        return await ledger.post(
            Transfer(
                id=TransferId(transfer_id),
                debit=system_account("credit", now),
                credit=account,
                amount=amount,
                code=TransferCode.CREDIT,
                created_at=now,
                note=note,
            )
        )
    except IdempotencyConflict:
        raise VectollError("this --id was used for a credit of another amount or account") from None
