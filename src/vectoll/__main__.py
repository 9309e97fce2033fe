"""``python -m vectoll``: the command, where its own name is not on the PATH."""

from vectoll.cli import main

main()
