"""vectoll db migrate, status, copy"""

import asyncio
from typing import TYPE_CHECKING

import click

from vectoll.cli.backup import progress_bar
from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import print_json
from vectoll.settings import Settings

if TYPE_CHECKING:
    from vectoll.databases import SchemaVersions


@click.group()
def db() -> None:
    """The PostgreSQL database that gateways share (`database.url`)."""


@db.command()
@click.option("--pre", is_flag=True, help="Only what must be there before the new program runs.")
@click.option("--post", is_flag=True, help="Only what may go when the old program is gone.")
@as_json
@with_settings
def migrate(settings: Settings, pre: bool, post: bool, as_json: bool) -> None:
    """Make the schema, or bring it up to this program's version.

    With one gateway, or all of them stopped, run it as it is. To replace gateways one by one: --pre, then the new
    program everywhere, then --post; both together are all of it. Two at once are safe; a schema that is newer than
    the program is refused.
    """
    from vectoll.databases import Part, migrate_database

    parts = tuple(Part) if pre == post else (Part.PRE if pre else Part.POST,)
    _print(asyncio.run(migrate_database(settings.database, parts)), as_json)


@db.command()
@as_json
@with_settings
@click.pass_context
def status(ctx: click.Context, settings: Settings, as_json: bool) -> None:
    """Show how far the schema is. Exit code 1 when this program cannot serve from it."""
    from vectoll.databases import database_versions

    found = asyncio.run(database_versions(settings.database))
    _print(found, as_json)
    ctx.exit(0 if found.is_usable else 1)


@db.command("copy")
@click.option(
    "--to", "url", metavar="URL", help="The database to fill; else database.url, which no `ps` shows."
)
@as_json
@with_settings
def copy_(settings: Settings, url: str | None, as_json: bool) -> None:
    """Copy the ledger in the data directory into an empty database, and verify it there.

    Stop the server first. The data directory stays as it is; serve from the database from then on, and no more from
    the directory.
    """
    from vectoll.databases import copy_database

    with progress_bar("Copying") as progress:
        copied = asyncio.run(copy_database(settings, url, progress))
    found = copied.verification
    if as_json:
        print_json({"rows": copied.rows, "accounts": found.accounts, "transfers": found.transfers})
    else:
        click.echo(
            f"Copied {copied.rows:,} rows: {found.accounts:,} accounts, {found.transfers:,} transfers, "
            "verified, balances equal."
        )


def _print(found: "SchemaVersions", as_json: bool) -> None:
    if as_json:
        print_json({"pre": found.pre, "post": found.post, "program": found.newest, "usable": found.is_usable})
        return
    click.echo(
        f"The database's schema: {found.pre} (--pre), {found.post} (--post); this program's: {found.newest}."
    )
    if advice := found.advice:
        click.echo(advice)
