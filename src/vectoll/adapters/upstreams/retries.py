"""When to ask again."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

MAX_RETRY_AFTER_S = 86_400.0

_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_RETRY_DELAY = re.compile(rb'"retryDelay"\s*:\s*"(\d{1,9}(?:\.\d{1,9})?)s"')


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most ``max_attempts`` calls, and pauses of full jitter: uniform in 0 .. min(cap, base · 2ⁿ).

    (Brooker, "Exponential Backoff And Jitter", AWS 2015: the fewest calls and the least contention.)
    """

    max_attempts: int = 4
    base_s: float = 0.25
    cap_s: float = 8.0

    def pause_s(self, attempt: int, retry_after_s: float | None, uniform: Callable[[], float]) -> float:
        """How long to wait after failed attempt ``attempt`` (from 1). Never less than what the provider asked for.

        Who waits for the same moment is spread over some time after it.
        """
        jitter = uniform() * min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 32))
        return jitter + (retry_after_s or 0.0)


def retry_after_s(headers: Mapping[str, str], body: bytes, now: datetime | None = None) -> float | None:
    """When the provider wants to be asked again, in seconds from now; None where it does not say.

    Reads ``retry-after-ms`` (OpenAI), ``retry-after`` in seconds or as a date (RFC 9110 §10.2.3), and the
    ``retryDelay`` of a Google error body.
    """
    if milliseconds := _number(headers.get("retry-after-ms", "")):
        return min(milliseconds / 1000, MAX_RETRY_AFTER_S)
    value = headers.get("retry-after", "")
    if (seconds := _number(value)) is not None:
        return min(seconds, MAX_RETRY_AFTER_S)
    if value and (seconds := _until(value, now or datetime.now(UTC))) is not None:
        return min(seconds, MAX_RETRY_AFTER_S)
    if found := _RETRY_DELAY.search(body):
        return min(float(found[1]), MAX_RETRY_AFTER_S)
    return None


def _number(text: str) -> float | None:
    digits = text.strip(" \t")
    return float(digits) if _NUMBER.fullmatch(digits) else None


def _until(text: str, now: datetime) -> float | None:
    try:
        date = datetime.strptime(text, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (date - now).total_seconds())
