"""Counts failures against their callers, and tells callers where they stand with each limit."""

from contextlib import suppress

from starlette.responses import Response
from starlette.types import Scope

from vectoll.core.admission import Admission
from vectoll.domain.errors import Unavailable
from vectoll.domain.limits import LimitState
from vectoll.http.errors import CALLERS_FAULT
from vectoll.http.headers import RawHeaders
from vectoll.http.record import RequestRecord, is_api, record_of, stranger


class LimitHeaders:
    """The ``x-ratelimit-*`` headers of the API's answers."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def add(self, scope: Scope, response: Response) -> None:
        """Count a failure, and add the headers. They are left out where the limits cannot be read now."""
        if not is_api(scope):
            return
        record = record_of(scope)
        caller = record.caller or stranger(scope)
        with suppress(Unavailable):
            if response.status_code in CALLERS_FAULT:
                await self._admission.record_failure(caller)
            requests, tokens = await self._standing(record, caller)
            response.raw_headers.extend(_limit_headers(b"requests", requests))
            response.raw_headers.extend(_limit_headers(b"tokens", tokens))

    async def _standing(
        self, record: RequestRecord, caller: str
    ) -> tuple[LimitState | None, LimitState | None]:
        """What the permit has seen; what it has not is looked up."""
        permit = record.permit
        requests, tokens = (permit.requests, permit.tokens) if permit else (None, None)
        if requests is None or tokens is None:
            now_requests, now_tokens = await self._admission.standing(caller, record.model)
            requests, tokens = requests or now_requests, tokens or now_tokens
        return requests, tokens


def _limit_headers(what: bytes, state: LimitState | None) -> RawHeaders:
    if state is None:
        return []
    return [
        (b"x-ratelimit-limit-" + what, b"%d" % state.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % state.remaining),
        (b"x-ratelimit-reset-" + what, b"%d" % state.reset_s),
    ]
