"""How commands print: tables for people, JSON for programs."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from vectoll.domain.ledger import Verification
from vectoll.domain.money import UNITS_PER_USD, ZERO, Amount, format_usd

_JSON = msgspec.json.Encoder(decimal_format="number")
_TERMINAL_READS = re.compile(r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What JSON leaves as it is and a terminal may act on: control characters from 0x7f on, changes of direction."""
MAX_CELL = 128
"""On a terminal a longer cell is cut: no id is longer."""


def print_json(value: Any) -> None:
    """Indented JSON, in UTF-8. Amounts go in as ``to_decimal`` gives them, and come out as exact decimal numbers."""
    text = msgspec.json.format(_JSON.encode(value)).decode()
    click.echo(_TERMINAL_READS.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode())


def printable(text: str) -> str:
    """Text that others wrote, such as a key's name, with whatever a terminal would act on spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def dollars(amount: Amount) -> str:
    """``$4.230000``, rounded down; what would be shown as nothing has all its digits: ``$0.000000025``."""
    is_tiny = amount != ZERO and abs(amount) < UNITS_PER_USD // 10**6
    return f"${format_usd(amount, 12).rstrip('0')}" if is_tiny else f"${format_usd(amount)}"


def counted(count: int, noun: str) -> str:
    """``1 transfer``, ``2,000 transfers``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def books(found: Verification) -> str:
    """What was verified: ``2 accounts, 1 transfer``."""
    return f"{counted(found.accounts, 'account')}, {counted(found.transfers, 'transfer')}"


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, numbers to the right; the titles are bold on a terminal."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    is_number = [all(_is_number(row[i]) for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, is_number, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()

    click.secho(line(titles), bold=True)
    for row in rows:
        click.echo(line(row))


def _cell(text: str) -> str:
    shown = printable(text)
    return f"{shown[: MAX_CELL - 1]}…" if len(shown) > MAX_CELL and sys.stdout.isatty() else shown


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).removeprefix("$").isdigit()
