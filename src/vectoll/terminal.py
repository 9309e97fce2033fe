"""Drawing on a terminal."""

import sys


def draw_line(line: str) -> None:
    """Put ``line`` in the place of what was drawn before. What a narrow terminal has no room for is not wrapped."""
    sys.stderr.write(f"\r\033[K\033[?7l{line}\033[?7h")
    sys.stderr.flush()
