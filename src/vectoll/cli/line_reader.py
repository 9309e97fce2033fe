"""Reading a file of texts, a line each, and showing how far that is."""

import os
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

from vectoll.domain.errors import InvalidRequest
from vectoll.terminal import QUIET_S, REDRAW_S, bar, draw_line


class LineReader:
    """The lines of a file as texts, and a bar on standard error where that is a terminal."""

    def __init__(self, file: BinaryIO, total_bytes: int | None) -> None:
        self._file = file
        self._total_bytes = total_bytes
        self._read_bytes = 0
        self._started = self._shown = time.monotonic()
        self._is_visible = False

    @classmethod
    def reading(cls, file: BinaryIO) -> "LineReader":
        """A pipe has no size, so no bar, only a count."""
        try:
            size = os.fstat(file.fileno()).st_size
        except OSError:
            size = 0
        return cls(file, size or None)

    def __iter__(self) -> Iterator[str]:
        """Each line without its end. Raises InvalidRequest for a file that is not UTF-8."""
        for number, line in enumerate(self._file, 1):
            self._read_bytes += len(line)
            try:
                yield line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise InvalidRequest(f"line {number} is not UTF-8") from None

    def show(self, done: int) -> None:
        """Draw, unless it is too early or nobody looks."""
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._started < QUIET_S or now - self._shown < REDRAW_S:
            return
        self._shown = now
        self._is_visible = True
        drawn = f"{bar(self._read_bytes, self._total_bytes)}  " if self._total_bytes else ""
        draw_line(f"{drawn}{done:,} texts  {done / (now - self._started):,.0f}/s")

    def finish(self) -> None:
        """Leave the line."""
        if self._is_visible:
            sys.stderr.write("\n")
