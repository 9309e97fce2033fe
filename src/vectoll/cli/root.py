"""The command group, and what happens when a command fails."""

import os
import sys
from typing import Any, NoReturn

import click

from vectoll import __version__
from vectoll.cli import INTERRUPTED
from vectoll.cli.accounts import accounts
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
from vectoll.cli.output import printable
from vectoll.cli.payments import payments
from vectoll.cli.reference import reference
from vectoll.cli.serve import serve
from vectoll.cli.usage import usage
from vectoll.domain.errors import ConfigurationError, UnknownModel, Unusable, VectollError


class _WrongSetting(click.ClickException):
    exit_code = 2


class _Group(click.Group):
    def main(self, *args: Any, **extra: Any) -> Any:
        """What the system refuses is one line, too: an output that is full, a file that may not be read."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            _give_up(error)

    def invoke(self, ctx: click.Context) -> Any:
        """Exit code 2 for a wrong setting or option, 130 after Ctrl+C, 1 for whatever else was refused."""
        try:
            return super().invoke(ctx)
        except Unusable as error:
            raise click.ClickException(printable(str(error))) from None
        except (ConfigurationError, UnknownModel) as error:
            raise _WrongSetting(printable(str(error))) from None
        except VectollError as error:
            raise click.ClickException(printable(str(error))) from None
        except KeyboardInterrupt:
            click.echo("\nAborted!", err=True)  # on a line after the terminal's ^C
            ctx.exit(INTERRUPTED)


def _give_up(error: OSError) -> NoReturn:
    name = f"{error.filename}: " if error.filename else ""
    click.echo(f"Error: {name}{error.strerror or error}", err=True)
    sys.exit(1)


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
    accounts,
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
    """What the installed command runs."""
    try:
        cli(prog_name="vectoll")
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """What could not be written is not tried again when the interpreter ends: it was told, and has an exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
