"""A bar for downloads, where somebody looks."""

import sys
import time

from vectoll.terminal import REDRAW_S, bar, draw_line


class DownloadBar:
    """A ``Progress`` on standard error: a bar on a terminal, nothing elsewhere."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._is_seen = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._first: int | None = None
        self._is_drawn = False

    def __call__(self, done: int, total: int) -> None:
        """Draw, unless nobody looks or it was drawn just now. The end is always drawn where the beginning was."""
        now = time.monotonic()
        if self._first is None:
            self._first = done
        is_end = done >= total and self._is_drawn
        if not self._is_seen or (now - self._shown < REDRAW_S and not is_end):
            return
        self._shown = now
        self._is_drawn = not is_end
        rate = (done - self._first) / max(now - self._started, 1e-9)
        draw_line(
            f"{bar(done, total)}  {done / 1e6:,.0f} of {total / 1e6:,.0f} MB  {rate / 1e6:,.1f} MB/s  {self._title}"
        )
        if is_end:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._is_drawn:
            sys.stderr.write("\n")
            self._is_drawn = False
