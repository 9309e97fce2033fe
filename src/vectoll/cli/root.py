"""The command group, and what happens when a command fails."""

import os
from typing import Any

import click

from vectoll import __version__
from vectoll.cli.allowance import allowance
from vectoll.cli.backup import backup, restore
from vectoll.cli.cluster import cluster
from vectoll.cli.completion import completion
from vectoll.cli.config import config
from vectoll.cli.credit import credit
from vectoll.cli.db import db
from vectoll.cli.embed import embed
from vectoll.cli.keys import keys
from vectoll.cli.ledger import ledger
from vectoll.cli.models import models
from vectoll.cli.payments import payments
from vectoll.cli.reference import reference
from vectoll.cli.serve import serve
from vectoll.cli.usage import usage
from vectoll.domain.errors import ConfigurationError, VectollError


class _WrongSetting(click.ClickException):
    exit_code = 2


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Exit code 2 for a wrong setting or option, 1 for whatever else was refused."""
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            raise _WrongSetting(str(error)) from None
        except VectollError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="vectoll %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """An embeddings API that meters, bills and gets paid.

    Settings come from vectoll.toml, then VECTOLL_* environment variables, then options; the last one wins.
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


for _command in (
    serve,
    embed,
    keys,
    credit,
    allowance,
    usage,
    ledger,
    db,
    payments,
    backup,
    restore,
    models,
    cluster,
    config,
    completion,
    reference,
):
    cli.add_command(_command)


def main() -> None:
    """The entry point of the installed command."""
    cli(prog_name="vectoll")
