"""vectoll keys create, list, revoke"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from vectoll.cli import suggest
from vectoll.cli.options import ACCOUNT, DOLLARS, FUTURE, NAME, as_json, with_settings
from vectoll.cli.output import dollars, print_json, print_table
from vectoll.domain.errors import NotFound, Unavailable, VectollError
from vectoll.domain.identity import ApiKey, KeyKind, LimitPeriod, SpendLimit, new_secret
from vectoll.domain.ids import AccountId, KeyId, is_generated, new_account, new_id
from vectoll.domain.money import ZERO, Amount, format_usd, to_decimal
from vectoll.ports.keys import KeyStore
from vectoll.settings import Settings


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option("--name", type=NAME, required=True, help="What the key is for.")
@click.option("--account", type=ACCOUNT, help="The account whose credit it spends; else a new one.")
@click.option(
    "--credit-usd", type=DOLLARS, default="0", help="Credit to give the account at once, in dollars."
)
@click.option("--admin", is_flag=True, help="The key may also manage its account's keys.")
@click.option("--pro", is_flag=True, help="The key may use models that are marked pro-only.")
@click.option(
    "--expires", type=FUTURE, help="When it stops working: a date (2027-01-31), or a span from now (90d)."
)
@click.option("--limit-usd", type=DOLLARS, help="The most that the key may spend in each --limit-period.")
@click.option(
    "--limit-period",
    type=click.Choice([p.value for p in LimitPeriod], case_sensitive=False),
    help="EPOCH is a UTC day, MONTH a calendar month, LIFETIME for ever.  [MONTH]",
)
@as_json
@with_settings
def create(
    settings: Settings,
    name: str,
    account: AccountId | None,
    credit_usd: Amount,
    admin: bool,
    pro: bool,
    expires: datetime | None,
    limit_usd: Amount | None,
    limit_period: str | None,
    as_json: bool,
) -> None:
    """Make a key. Its secret is printed once and stored only as a hash."""
    now = datetime.now(UTC)
    if expires is not None and expires <= now:
        raise click.BadParameter("must be in the future", param_hint="--expires")
    if limit_period is not None and limit_usd is None:
        raise click.UsageError("--limit-period needs --limit-usd.")
    period = LimitPeriod((limit_period or LimitPeriod.MONTH).upper())
    secret = new_secret()
    key = ApiKey.of_secret(
        secret,
        account or new_account(),
        name,
        now,
        kind=KeyKind.ADMIN if admin else KeyKind.INFERENCE,
        expires_at=expires,
        limit=None if limit_usd is None else SpendLimit(limit_usd, period),
        is_pro=pro,
    )
    is_there = account is not None and is_generated(
        account
    )  # else it is new, or a wallet's, or a JWT's subject
    balance = asyncio.run(_create(settings, key, credit_usd, is_there=is_there))
    try:
        _show(key, secret, balance, as_json)
    except OSError as error:
        raise VectollError(
            f"cannot print the key ({error.strerror}), so nobody has it: run `vectoll keys revoke {key.id}`, then "
            "make another"
        ) from None


def _show(key: ApiKey, secret: str, balance: Amount, as_json: bool) -> None:
    if as_json:
        print_json({"id": key.id, "key": secret, **_described(key), "balance_usd": to_decimal(balance)})
        return
    click.echo(f"Key {key.id} of account {key.account}, which has {dollars(balance)} of credit.", err=True)
    click.echo("Keep it now: it is stored only as a hash and not shown again.", err=True)
    click.secho(secret, bold=True)


async def _create(settings: Settings, key: ApiKey, credit: Amount, *, is_there: bool) -> Amount:
    """The account's balance. Raises NotFound for an account that should be there and is not: it is mistyped."""
    from vectoll.bootstrap import open_store
    from vectoll.cli.accounts import require_account
    from vectoll.cli.credit import by_operator, grant

    credit_id = new_id("credit")
    async with open_store(settings, must_exist=is_there) as store:
        if is_there:
            await require_account(store, key.account)
        try:
            if credit > ZERO:
                await grant(store.ledger, key.account, credit, by_operator(credit_id), f"with key {key.id}")
            await store.keys.add(key)
            return (await store.ledger.balance(key.account)).balance
        except Unavailable as error:
            if credit == ZERO:
                raise
            raise VectollError(
                f"{key.account} may have been credited, but the key is lost: repeat the command with "
                f"--account {key.account} and without --credit-usd, then `vectoll credit add "
                f"--account {key.account} --usd {format_usd(credit, 12)} --id {credit_id}`, which adds nothing twice; "
                "where there is no such account, nothing was added: begin anew"
            ) from error


@keys.command("list")
@click.option("--account", type=ACCOUNT, help="Only this account's keys.")
@click.option("--all", "with_inactive", is_flag=True, help="Include revoked and expired keys.")
@as_json
@with_settings
def list_keys(settings: Settings, account: AccountId | None, with_inactive: bool, as_json: bool) -> None:
    """List keys, oldest first."""
    now = datetime.now(UTC)
    found = [key for key in asyncio.run(_list(settings, account)) if with_inactive or key.is_active(now)]
    if as_json:
        print_json([{"id": key.id, **_described(key)} for key in found])
        return
    print_table(
        ("ID", "NAME", "ACCOUNT", "KIND", "KEY", "CREATED", "EXPIRES", "LIMIT", "STATE"),
        [
            (
                key.id,
                key.name,
                key.account,
                f"{key.kind}{'+PRO' if key.is_pro else ''}",
                f"{key.prefix}…{key.last6}",
                f"{key.created_at:%Y-%m-%d}",
                f"{key.expires_at:%Y-%m-%d %H:%M}" if key.expires_at else "-",
                f"{dollars(key.limit.amount)}/{key.limit.period}" if key.limit else "-",
                "active" if key.is_active(now) else "revoked" if key.revoked_at else "expired",
            )
            for key in found
        ],
    )


async def _list(settings: Settings, account: AccountId | None) -> Sequence[ApiKey]:
    from vectoll.bootstrap import open_store
    from vectoll.cli.accounts import require_account

    async with open_store(settings, must_exist=True) as store:
        found = await store.keys.list(account)
        if account and not found:
            await require_account(store, account)
        return found


@keys.command()
@click.argument("key_id", shell_complete=suggest.active_keys)
@as_json
@with_settings
def revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """Revoke a key by its id. It takes effect at once, on running servers too."""
    was_active = asyncio.run(_revoke(settings, KeyId(key_id)))
    if as_json:
        print_json({"id": key_id, "revoked": was_active})
    else:
        click.echo(f"Revoked {key_id}." if was_active else f"{key_id} was already revoked.")


async def _revoke(settings: Settings, key_id: KeyId) -> bool:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        await require_key(store.keys, key_id)
        return await store.keys.revoke(key_id, datetime.now(UTC))


async def require_key(store: KeyStore, key_id: KeyId) -> ApiKey:
    """The key of this id. Raises NotFound, without repeating what may be a secret."""
    key = await store.get(key_id)
    if key is None:
        raise NotFound("there is no key with this id; `vectoll keys list --all` shows every id (key_…)")
    return key


def _described(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "account": key.account,
        "kind": key.kind,
        "pro": key.is_pro,
        "prefix": key.prefix,
        "last6": key.last6,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "limit_usd": to_decimal(key.limit.amount) if key.limit else None,
        "limit_period": key.limit.period if key.limit else None,
    }
