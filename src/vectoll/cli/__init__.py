"""The ``vectoll`` command. Commands are thin: they read their options, call one thing, and print."""

from vectoll.cli.root import main

__all__ = ["main"]
