"""Hold, charge or release: no way to forget one, as an async context manager."""

import asyncio
import hashlib
import time
from dataclasses import replace
from typing import Self

import msgspec

from vectoll.core.repeats import Repeats
from vectoll.domain.embedding import EmbeddingRequest, Usage
from vectoll.domain.errors import IdempotencyKeySpent
from vectoll.domain.identity import Principal
from vectoll.domain.ids import AccountId, RequestId, TransferId, new_id
from vectoll.domain.ledger import Hold, Transfer
from vectoll.domain.money import Quote
from vectoll.ports.clock import Clock, SystemClock
from vectoll.ports.ledger import Ledger
from vectoll.ports.metrics import Metrics

SLICE_BYTES = 524_288
"""What of a request is hashed at a stretch: less than a millisecond's work."""


class Billing:
    """Opens holds against a ledger."""

    def __init__(self, ledger: Ledger, metrics: Metrics, clock: Clock | None = None) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._repeats = Repeats(clock or SystemClock())

    def hold(
        self,
        principal: Principal,
        quote: Quote,
        request: EmbeddingRequest,
        request_id: RequestId,
        idempotency_key: str | None = None,
    ) -> "OpenHold":
        """A context that has the quote's credit set aside. Leaving it uncharged releases the hold.

        With an idempotency key the charge's id follows from the account and the key, so a repeat of the same
        request finds the first charge and pays nothing more. Entering raises IdempotencyKeySpent after too many.
        """
        if idempotency_key is None:
            hold = Hold(TransferId(new_id("chg")), principal, quote, request_id)
            return OpenHold(self._ledger, self._metrics, hold)
        hold = Hold(repeatable_id(principal.account, idempotency_key), principal, quote, request_id)
        return OpenHold(self._ledger, self._metrics, hold, request, self._repeats)


def repeatable_id(account: AccountId, idempotency_key: str) -> TransferId:
    """One id per account and key, of fixed length, that gives neither away."""
    digest = hashlib.sha256(f"{len(account)}:{account}{idempotency_key}".encode()).hexdigest()
    return TransferId(f"idem_{digest}")


class OpenHold:
    """One hold, from entry to charge or release."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        hold: Hold,
        request: EmbeddingRequest | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        """``request`` is what may be repeated, and ``repeats`` counts how often it is; both or neither."""
        self._ledger = ledger
        self._metrics = metrics
        self._hold = hold
        self._request = request
        self._repeats = repeats
        self._earlier: Transfer | None = None
        self._is_open = False
        self._started = time.perf_counter()

    async def __aenter__(self) -> Self:
        if self._request is not None:
            self._hold = replace(self._hold, fingerprint=await fingerprint_of(self._request))
        self._earlier = await self._ledger.hold(self._hold)
        self._is_open = self._earlier is None
        if self._repeats is not None:
            await self._begin(self._repeats)
        return self

    async def _begin(self, repeats: Repeats) -> None:
        try:
            repeats.begin(self._hold.id, self._earlier)
        except IdempotencyKeySpent:
            self._repeats = None
            await self.__aexit__()
            raise

    async def charge(self, usage: Usage) -> Transfer:
        """Charge what was used, durably. For a repeat of a request that was paid for: the first charge."""
        if self._earlier is not None:
            return self._earlier
        self._is_open = False  # from here the ledger settles the hold, even when this await is cancelled
        duration_ms = int((time.perf_counter() - self._started) * 1000)
        charge = await self._ledger.charge(self._hold, usage.prompt_tokens, duration_ms)
        self._metrics.charged(self._hold.quote.model, charge.amount)
        return charge

    async def charge_undelivered(self, usage: Usage, *, is_whole: bool) -> None:
        """Charge what a provider billed and nobody gets. A part leaves the Idempotency-Key to the whole request."""
        if self._earlier is None and not is_whole and self._hold.fingerprint is not None:
            part = replace(self._hold, id=TransferId(new_id("chg")), fingerprint=None)
            await OpenHold(self._ledger, self._metrics, part).charge(usage)
        else:
            await self.charge(usage)

    async def __aexit__(self, *exc_info: object) -> None:
        if self._repeats is not None:
            self._repeats.end(self._hold.id)
        if self._is_open:
            await self._ledger.release(self._hold)


async def fingerprint_of(request: EmbeddingRequest) -> bytes:
    """SHA-256 of what was asked for, as JSON: equal exactly for equal requests. Others have their turn between slices.

    It is kept with the charge: what is hashed must not change.
    """
    head, inputs, tail = msgspec.json.encode(replace(request, inputs=[])).partition(b'"inputs":[')
    digest = hashlib.sha256(head + inputs)
    size = 0
    for index, one in enumerate(request.inputs):
        if size >= SLICE_BYTES:
            size = 0
            await asyncio.sleep(0)
        encoded = msgspec.json.encode(one)
        size += len(encoded)
        digest.update(b"," + encoded if index else encoded)
    digest.update(tail)
    return digest.digest()
