"""configure_logging: one line per event, in the form that whoever reads it wants."""

import ast
import asyncio
import errno
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

import vectoll
from vectoll.logging import _without_noise, configure_logging
from vectoll.settings import LogSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_own_events_and_the_standard_librarys_are_json_lines_of_one_shape() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    structlog.get_logger("vectoll.access").info("request", status=200, model=None, request_id="req_1")
    extra = {"seconds": 2, "_ray_timestamp": 1}  # much as Ray adds to every record, once it is imported
    logging.getLogger("vectoll.storage").warning("slow %s", "commit", extra=extra)
    own, foreign = logged(stream)
    assert own.pop("timestamp") <= foreign.pop("timestamp")
    assert own == {"event": "request", "level": "info", "status": 200, "request_id": "req_1"}
    assert foreign == {"event": "slow commit", "level": "warning", "logger": "vectoll.storage", "seconds": 2}


@pytest.mark.parametrize("is_traced", [False, True])
def test_line_is_the_same_by_the_short_way_and_through_the_processors(
    is_traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, processed = io.StringIO(), []

    def without_noise(*event: Any) -> Any:
        processed.append(event)
        return _without_noise(*event)

    monkeypatch.setattr("vectoll.logging.current_trace", lambda: SimpleNamespace(id="ab12"))
    monkeypatch.setattr("vectoll.logging._without_noise", without_noise)
    configure_logging(LogSettings(), stream, is_traced=is_traced)
    log = structlog.get_logger()
    for again in (log, log.bind(code=None)):  # what is bound goes the long way
        again.warning("odd", request_id="réq", method="POST", status=200, code=None, ok=True)
    assert len(processed) == 1
    short, long = (list(line.items()) for line in logged(stream))
    assert [pair for pair in short if pair[0] != "timestamp"] == [
        pair for pair in long if pair[0] != "timestamp"
    ]
    assert dict(short).get("trace_id") == ("ab12" if is_traced else None)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z"
    assert all(re.fullmatch(stamp, dict(line)["timestamp"]) for line in (short, long))


@pytest.mark.parametrize("form", ["json", "text"])
def test_traceback_is_logged_and_shows_no_values(form: Any) -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(format=form), stream)
    secret = "vtk_" + "SECRET"
    try:
        _ = 1 / (len(secret) - 10)
    except ZeroDivisionError:
        logging.getLogger("x").exception("failed")
        structlog.get_logger().exception("failed too")
    assert stream.getvalue().count("ZeroDivisionError") == 2
    assert "vtk_SECRET" not in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
def test_level_holds_for_both(form: Any) -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="error", format=form), stream)
    structlog.get_logger().warning("quiet")
    logging.getLogger("x").warning("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("x").error("loud")
    assert stream.getvalue().count("loud") == 2
    assert "quiet" not in stream.getvalue()


def test_auto_is_coloured_text_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = Terminal(), Terminal()
    configure_logging(LogSettings(), coloured)
    structlog.get_logger().info("event", status=200)
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logging(LogSettings(), plain)
    structlog.get_logger().info("event", status=200)
    assert "\033[" in coloured.getvalue()
    assert "\033[" not in plain.getvalue()
    assert "status=200" in plain.getvalue()


def test_value_that_json_does_not_know_is_its_repr() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    structlog.get_logger().info("event", error=ValueError("bad"))
    assert logged(stream)[0]["error"] == "ValueError('bad')"


def test_warnings_are_logged() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("odd", stacklevel=1)
    assert "odd" in logged(stream)[0]["event"]


class Counting(io.StringIO):
    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


class Full(io.StringIO):
    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


async def test_what_a_loop_says_in_one_turn_is_written_at_its_end_in_order() -> None:
    stream = Counting()
    configure_logging(LogSettings(), stream)
    for number in range(3):
        structlog.get_logger().info(f"own {number}")
        logging.getLogger("x").warning("foreign %d", number)
    await asyncio.to_thread(logging.getLogger("x").warning, "of a thread")
    await asyncio.sleep(0)  # Python 3.14 ends no turn for a thread that has done already
    said = [line["event"] for line in logged(stream)]
    assert [event for event in said if event != "of a thread"] == [
        f"{whose} {number}" for number in range(3) for whose in ("own", "foreign")
    ]
    assert "of a thread" in said
    assert stream.writes == 2


async def test_log_that_cannot_be_written_harms_nobody() -> None:
    stream = Counting()
    configure_logging(LogSettings(), stream)
    stream.close()
    structlog.get_logger().info("unheard")
    for _ in range(5):
        await asyncio.sleep(0)
    assert stream.writes <= 1


def test_log_on_a_full_disk_harms_nobody_where_no_loop_runs_and_goes_on_when_there_is_room() -> None:
    """What the start has to say, for one: a server must come up where its log cannot be written."""
    stream = Full()
    configure_logging(LogSettings(), stream)
    structlog.get_logger().warning("unheard")
    stream.is_full = False
    structlog.get_logger().warning("heard")
    assert [line["event"] for line in logged(stream)] == ["heard"]


def test_last_words_of_a_loop_are_written() -> None:
    async def main() -> None:
        structlog.get_logger().info("stopped")

    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    asyncio.run(main())
    structlog.get_logger().info("after")
    assert [line["event"] for line in logged(stream)] == ["stopped", "after"]


def test_loop_that_ends_in_the_middle_of_a_turn_silences_no_other() -> None:
    async def main() -> None:
        structlog.get_logger().info("second")

    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    broken = asyncio.new_event_loop()
    broken.call_soon(structlog.get_logger().info, "first")
    broken.call_soon(broken.stop)
    broken.run_forever()
    broken.close()
    asyncio.run(main())
    assert [line["event"] for line in logged(stream)] == ["first", "second"]


def test_every_line_of_the_log_is_an_event_with_fields() -> None:
    """What happened is one word, so that it can be searched for; what it happened to are fields."""
    package = Path(vectoll.__file__).parent
    calls = [
        (file.relative_to(package), node)
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"debug", "info", "warning", "error", "exception", "critical"}
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"log", "_log"}
    ]
    assert len(calls) > 40
    wrong = [
        f"{file}:{call.lineno}"
        for file, call in calls
        if len(call.args) != 1
        or not isinstance(call.args[0], ast.Constant)
        or not re.fullmatch("[a-z]+(_[a-z]+)*", str(call.args[0].value))
    ]
    assert wrong == []
