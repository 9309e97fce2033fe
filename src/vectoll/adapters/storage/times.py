"""Instants as stored: whole microseconds since 1970-01-01 UTC, exact both ways."""

from datetime import UTC, datetime, timedelta

from vectoll.domain.identity import LimitPeriod

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(instant: datetime) -> int:
    """An aware instant in microseconds. Raises TypeError for a naive one."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The instant, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def period_starts(now: datetime) -> tuple[tuple[LimitPeriod, int], ...]:
    """Each kind of limit period, and when the one that holds ``now`` started."""
    utc = now.astimezone(UTC)
    return tuple((period, to_micros(period.start(utc))) for period in LimitPeriod)
