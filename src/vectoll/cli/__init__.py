"""The ``vectoll`` command. Commands are thin: they read their options, call one thing, and print."""

import sys


def main() -> None:
    """The entry point of the installed command. Ctrl+C is one line also while the rest is imported."""
    try:
        from vectoll.cli.root import main as run

        run()
    except KeyboardInterrupt:
        print("Aborted!", file=sys.stderr)
        sys.exit(1)
