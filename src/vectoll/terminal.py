"""Drawing on a terminal."""

import sys

WIDTH = 30
QUIET_S = 2.0
"""Work that is done sooner draws nothing."""
REDRAW_S = 0.2


def bar(done: int, total: int) -> str:
    """``[#########                     ]  30%``; full where there is nothing to do."""
    share = min(1.0, done / total) if total else 1.0
    return f"[{'#' * int(share * WIDTH):<{WIDTH}}] {share:4.0%}"


def draw_line(line: str) -> None:
    """Put ``line`` in the place of what was drawn before. What a narrow terminal has no room for is not wrapped."""
    sys.stderr.write(f"\r\033[K\033[?7l{line}\033[?7h")
    sys.stderr.flush()
