"""Instants on the wire: ISO 8601 in UTC with milliseconds and a Z."""

import re
from datetime import UTC, datetime

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?Z", re.ASCII)


def format_instant(at: datetime) -> str:
    """``2026-06-15T19:05:10.504Z``, rounded down."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def parse_instant(text: str) -> datetime | None:
    """An aware instant; None for anything that is no ISO 8601 instant with a Z."""
    return _parse(text) if _INSTANT.fullmatch(text) else None


def parse_date_or_instant(text: str) -> datetime | None:
    """As ``parse_instant``; a date alone is its first instant in UTC."""
    return _parse(f"{text}T00:00:00Z") if _DATE.fullmatch(text) else parse_instant(text)


def _parse(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # the 30th of February
        return None
