"""vectoll db migrate, status, copy"""

import asyncio
from typing import TYPE_CHECKING

import click

from vectoll.cli.backup import progress_bar
from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import books, counted, print_json
from vectoll.settings import Settings

if TYPE_CHECKING:
    from vectoll.databases import SchemaVersions


@click.group()
def db() -> None:
    """The PostgreSQL database that gateways share (`database.url`)."""


@db.command()
@click.option("--pre", is_flag=True, help="Only what the new version needs before it starts.")
@click.option("--post", is_flag=True, help="Only what may go once the old version is gone.")
@as_json
@with_settings
def migrate(settings: Settings, pre: bool, post: bool, as_json: bool) -> None:
    """Create the schema, or bring it up to this version.

    With one gateway, or with all of them stopped, run it without options. To replace gateways one by one: --pre, then
    the new version everywhere, then --post. Running it twice at once is safe; a schema newer than this version is
    refused.
    """
    from vectoll.databases import Part, migrate_database

    parts = tuple(Part) if pre == post else (Part.PRE if pre else Part.POST,)
    _print(asyncio.run(migrate_database(settings.database, parts)), as_json)


@db.command()
@as_json
@with_settings
@click.pass_context
def status(ctx: click.Context, settings: Settings, as_json: bool) -> None:
    """Show the schema's version. Exit code 1 when this vectoll cannot serve from it."""
    from vectoll.databases import database_versions

    found = asyncio.run(database_versions(settings.database))
    _print(found, as_json)
    ctx.exit(0 if found.is_usable else 1)


@db.command("copy")
@click.option(
    "--to", "url", metavar="URL", help="The database to fill; else database.url, which `ps` does not show."
)
@as_json
@with_settings
def copy_(settings: Settings, url: str | None, as_json: bool) -> None:
    """Copy the data directory's ledger to an empty database.

    It is verified there. Stop the server first. The data directory stays as it is, but from then on serve from the
    database only.
    """
    from vectoll.databases import copy_database

    with progress_bar("Copying") as progress:
        copied = asyncio.run(copy_database(settings, url, progress))
    found = copied.verification
    if as_json:
        print_json({"rows": copied.rows, "accounts": found.accounts, "transfers": found.transfers})
    else:
        click.echo(f"Copied {counted(copied.rows, 'row')}: {books(found)}, verified, balances equal.")


def _print(found: "SchemaVersions", as_json: bool) -> None:
    if as_json:
        print_json({"pre": found.pre, "post": found.post, "program": found.newest, "usable": found.is_usable})
        return
    click.echo(
        f"The database's schema: {found.pre} (--pre), {found.post} (--post); this program's: {found.newest}."
    )
    if advice := found.advice:
        click.echo(advice)
