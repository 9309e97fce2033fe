"""How commands print: tables for people, JSON for programs."""

from collections.abc import Sequence
from typing import Any

import click
import msgspec

_JSON = msgspec.json.Encoder(decimal_format="number")


def print_json(value: Any) -> None:
    """Indented JSON. Amounts go in as ``to_decimal`` gives them, and come out as exact decimal numbers."""
    click.echo(msgspec.json.format(_JSON.encode(value)))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, numbers to the right; the titles are bold on a terminal."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    is_number = [all(_is_number(row[i]) for row in rows) for i in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, is_number, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in columns).rstrip()

    click.secho(line(titles), bold=True)
    for row in rows:
        click.echo(line(row))


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).removeprefix("$").isdigit()
