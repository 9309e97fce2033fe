"""One line per event on standard error: JSON for machines, or text for a terminal.

Our own events go through structlog straight to the stream; the standard library's records (uvicorn's, and those of
code that must not know structlog) are rendered the same way. Tracebacks never show the values of variables: one of
them may be a key or an input's text.

What an event loop says in one turn is written in one piece at its end: each write lets go of the interpreter, and one
for each request cost a tenth of the gateway's time.
"""

import asyncio
import atexit
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import orjson
import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from vectoll.core.tracing import current_trace
from vectoll.settings import LogSettings


def configure_logging(
    settings: LogSettings, stream: TextIO | None = None, *, is_traced: bool = False
) -> None:
    """Set up structlog and the standard library's root logger, to ``stream`` (standard error when left out).

    ``is_traced`` puts the trace's id on every line that is written while a request is served.
    """
    stream = stream or sys.stderr
    is_text = settings.format == "text" or (settings.format == "auto" and stream.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    lines = _Lines(stream)
    plain = structlog.make_filtering_bound_logger(level)
    first: list[Processor] = [_with_trace] if is_traced else []
    finish = _text(colors=stream.isatty() and not os.environ.get("NO_COLOR")) if is_text else _json()
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, *first, *finish],
        wrapper_class=plain if is_text else _short_cut(plain, lines, is_traced=is_traced),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", lines)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                stamp,
                *first,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_private,
                *finish,
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("uvicorn.error").setLevel(max(level, logging.WARNING))  # it announces itself at length


def _without_private(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Ray, once it is imported, gives every record of the standard library a field for itself."""
    return {name: value for name, value in event.items() if not name.startswith("_")}


class _Lines:
    """A stream that gathers an event loop's lines until the end of its turn. Others are written at once."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._gathered: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that was asked last to write them."""
        atexit.register(self._write_gathered)

    def write(self, line: str) -> None:
        """Write a line, now or soon."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._write_out(line)
            return
        if not self._gathered or loop is not self._loop:
            loop.call_soon(self._write_gathered)
            self._loop = loop
        self._gathered.append(line)

    def flush(self) -> None:
        """Nothing is left to do that ``write`` has not arranged for."""

    def _write_gathered(self) -> None:
        if not self._gathered:
            return
        text = "".join(self._gathered)
        self._gathered.clear()
        self._write_out(text)

    def _write_out(self, text: str) -> None:
        # the disk is full, or nobody reads the log any more, and there is nowhere else to say so
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def _short_cut(plain: type[Any], lines: _Lines, *, is_traced: bool) -> type[Any]:
    """A logger class that writes what the processors would, without them, where an event is nothing special.

    There is a line for every request, and structlog's way through six processors takes twice as long.
    """

    class ShortCut(plain):  # type: ignore[misc]  # structlog makes its classes at run time
        def _proxy_to_logger(
            self, method: str, event: str | None = None, /, *args: Any, **fields: Any
        ) -> Any:
            if args or self._context or "exc_info" in fields:
                return super()._proxy_to_logger(method, event, *args, **fields)
            fields["event"] = event
            line = {name: value for name, value in fields.items() if value is not None}
            line["level"] = method
            line["timestamp"] = datetime.now(UTC)
            if is_traced:
                _with_trace(None, method, line)
            try:
                text = orjson.dumps(line, option=orjson.OPT_UTC_Z).decode()
            except TypeError:  # a value that JSON has no form for
                del fields["event"]
                return super()._proxy_to_logger(method, event, **fields)
            return lines.write(text + "\n")

    return ShortCut


def _json() -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        _without_noise,
        structlog.processors.JSONRenderer(_dumps),
    ]


def _text(*, colors: bool) -> list[Processor]:
    plain = structlog.dev.plain_traceback  # the default one prints local variables where rich is installed
    return [_without_noise, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]


def _with_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if trace := current_trace():
        event["trace_id"] = trace.id
    return event


def _without_noise(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Fields that do not apply are left out, and uvicorn's second, coloured copy of its message."""
    return {name: value for name, value in event.items() if value is not None and name != "color_message"}


def _dumps(event: EventDict, default: Callable[[Any], Any], **_: Any) -> str:
    return orjson.dumps(event, default=default, option=orjson.OPT_UTC_Z).decode()
