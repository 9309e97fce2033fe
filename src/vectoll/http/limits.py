"""Counts failures against their callers, and tells callers where they stand with each limit."""

from contextlib import suppress

from starlette.responses import Response
from starlette.types import Scope

from vectoll.core.admission import Admission
from vectoll.domain.errors import Unavailable
from vectoll.domain.identity import Caller
from vectoll.domain.limits import LimitState
from vectoll.http.errors import CALLERS_FAULT
from vectoll.http.headers import RawHeaders
from vectoll.http.record import is_api, record_of, speaks_openai, stranger

_REQUESTS = (b"x-ratelimit-limit-requests", b"x-ratelimit-remaining-requests", b"x-ratelimit-reset-requests")
_TOKENS = (b"x-ratelimit-limit-tokens", b"x-ratelimit-remaining-tokens", b"x-ratelimit-reset-tokens")


class LimitHeaders:
    """The ``x-ratelimit-*`` headers of the API's answers."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def add(self, scope: Scope, response: Response) -> None:
        """Count a failure, and add the headers. They are left out where the limits cannot be read now."""
        if not is_api(scope):
            return
        record = record_of(scope)
        caller = record.caller or Caller.keyless(stranger(scope))
        with suppress(Unavailable):
            if response.status_code in CALLERS_FAULT:
                await self._admission.record_failure(caller)
            permit = record.permit  # which has not seen a limit that was not reached
            requests = (permit and permit.requests) or await self._admission.requests_left(
                caller, record.model
            )
            tokens = (permit and permit.tokens) or await self._admission.tokens_left(caller, record.model)
            seconds = b"%ds" if speaks_openai(scope) else b"%d"
            response.raw_headers += _limit_headers(_REQUESTS, requests, seconds)
            response.raw_headers += _limit_headers(_TOKENS, tokens, seconds)


def _limit_headers(names: tuple[bytes, bytes, bytes], state: LimitState | None, seconds: bytes) -> RawHeaders:
    """``seconds`` is how they are written: OpenAI's clients read none without a unit."""
    if state is None:
        return []
    limit, remaining, reset = names
    return [
        (limit, b"%d" % state.limit),
        (remaining, b"%d" % state.remaining),
        (reset, seconds % state.reset_s),
    ]
