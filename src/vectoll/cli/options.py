"""Options and kinds of values that commands share."""

import functools
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from vectoll.domain.ids import AccountId, parse_account, parse_text
from vectoll.domain.money import Amount, usd
from vectoll.domain.wallets import Family, parse_wallet
from vectoll.settings import load_settings

Command = Callable[..., Any]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def with_settings(command: Command) -> Command:
    """Adds --config and --data-dir, and calls the command with ``settings``."""

    @click.option("--config", type=click.Path(path_type=Path), help="The settings file; else ./vectoll.toml.")
    @click.option("--data-dir", type=click.Path(), help="Where the ledger and keys live.")
    @functools.wraps(command)
    def wrapped(config: Path | None, data_dir: str | None, **arguments: Any) -> Any:
        return command(settings=load_settings(config, {"data_dir": data_dir}), **arguments)

    return wrapped


class _Dollars(click.ParamType[Amount]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Amount:
        try:
            amount = usd(value)
        except ValueError as error:
            self.fail(f"{value!r} is not an amount of dollars: {error}", param, ctx)
        if amount < 0:
            self.fail("an amount cannot be negative", param, ctx)
        return amount


class _Account(click.ParamType[AccountId]):
    name = "account"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> AccountId:
        try:
            return _spelled(parse_account(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Text(click.ParamType[str]):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_text(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _spelled(account: AccountId) -> AccountId:
    """An EVM wallet's account is its address in lower case, however the operator copied it."""
    try:
        wallet = parse_wallet(account)
    except ValueError:
        return account
    return wallet.account if wallet.family is Family.EVM else account


class _Name(_Text):
    """A key's name: as long as the API's may be, and without what would break the lines of a list of keys."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        if not 1 <= len(text) <= 64 or any(unicodedata.category(c) == "Cc" for c in text):
            self.fail("a name is 1 to 64 characters, none of them a control character", param, ctx)
        return text


_SPANS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


class _When(click.ParamType[datetime]):
    """``2026-11-22``, ``2026-11-22T10:00Z``, or a span from now such as ``36h`` or ``7d``. UTC."""

    name = "time"

    def __init__(self, direction: int) -> None:
        self._direction = direction

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            if span := re.fullmatch(r"(\d{1,6})([mhdw])", value):
                return datetime.now(UTC) + self._direction * int(span[1]) * _SPANS[span[2]]
            parsed = datetime.fromisoformat(value)
            return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a date, a time or a span such as 36h or 7d", param, ctx)


DOLLARS = _Dollars()
ACCOUNT = _Account()
TEXT = _Text()
NAME = _Name()
PAST = _When(-1)
FUTURE = _When(+1)
