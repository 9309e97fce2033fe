"""The ``vectoll`` command. Commands are thin: they read their options, call one thing, and print."""

import io
import os
import sys

INTERRUPTED = 130
"""The exit code after Ctrl+C: 128 and the number of the signal, as a shell would say it."""


def main() -> None:
    """The entry point of the installed command. Ctrl+C is one line also while the rest is imported."""
    _prepare_streams()
    try:
        from vectoll.cli.root import main as run

        run()
    except KeyboardInterrupt:
        print("Aborted!", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _prepare_streams() -> None:
    """A closed stream gets its number back before a file of ours does: standard output refuses what is written to it.

    What the terminal's encoding lacks is spelled out.
    """
    for name, how in (("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, how), "r" if name == "stdin" else "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
