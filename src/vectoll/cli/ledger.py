"""vectoll ledger verify"""

import asyncio

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import books, counted, print_json, printable
from vectoll.domain.ledger import Verification
from vectoll.settings import Settings


@click.group()
def ledger() -> None:
    """Verify the ledger."""


@ledger.command()
@as_json
@with_settings
@click.pass_context
def verify(ctx: click.Context, settings: Settings, as_json: bool) -> None:
    """Recompute every balance from the transfers. Exit code 1 when anything disagrees."""
    found = asyncio.run(_verify(settings))
    if as_json:
        print_json(found)
    else:
        for item in found.disagreements:
            text = f"{item.subject}: expected {item.expected}, found {item.found}"
            click.secho(printable(text), fg="red")
        verdict = "clean" if found.is_clean else counted(len(found.disagreements), "disagreement")
        click.echo(f"{books(found)}: {verdict}.")
    ctx.exit(0 if found.is_clean else 1)


async def _verify(settings: Settings) -> Verification:
    from vectoll.bootstrap import open_store

    async with open_store(settings, must_exist=True) as store:
        return await store.ledger.verify()
