"""vectoll backup, vectoll restore"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vectoll.cli.options import as_json, with_settings
from vectoll.cli.output import books, print_json
from vectoll.domain.ledger import Verification
from vectoll.ports.progress import Progress, no_progress
from vectoll.settings import Settings

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@as_json
@with_settings
def backup(settings: Settings, file: Path, force: bool, as_json: bool) -> None:
    """Copy the ledger to FILE and verify the copy. A server may run meanwhile.

    FILE is the ledger of one moment, with keys and payments. It appears only once it is complete and verified.
    """
    from vectoll.bootstrap import back_up_store

    _clean_up_at_sigterm()
    with progress_bar("Copying") as progress:
        found = back_up_store(settings, file, replace=force, progress=progress)
    _report("Backed up to", file, found, as_json)


@click.command()
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace the ledger that is there; it is kept as ….replaced.")
@as_json
@with_settings
def restore(settings: Settings, file: Path, force: bool, as_json: bool) -> None:
    """Replace the ledger with FILE, a backup. Stop the server first.

    FILE is verified before anything is changed.
    """
    from vectoll.bootstrap import restore_store

    _clean_up_at_sigterm()
    with progress_bar("Restoring") as progress:
        found = restore_store(settings, file, replace=force, progress=progress)
    _report("Restored from", file, found, as_json)


def _clean_up_at_sigterm() -> None:
    """So that no unfinished copy stays behind, as large as the ledger, each time a machine goes down during one."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))


def _report(what: str, file: Path, found: Verification, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), "accounts": found.accounts, "transfers": found.transfers})
    else:
        click.echo(f"{what} {file}: {books(found)}, verified.")


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield no_progress
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(1, total)
            bar.update(done - bar.pos)

        yield show
