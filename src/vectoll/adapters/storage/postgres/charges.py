"""Group commit: charges that wait together are one statement, one transaction and one flush of the disk."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import asyncpg

from vectoll.adapters.storage import rules
from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.postgres.holds import limit_columns, refusal
from vectoll.adapters.storage.postgres.microbatch import MicroBatcher
from vectoll.adapters.storage.rows import to_transfer
from vectoll.adapters.storage.times import period_starts, to_micros
from vectoll.adapters.storage.undecided import UndecidedCharges
from vectoll.domain.allowances import day_of
from vectoll.domain.errors import IdempotencyConflict, OutcomeUnknown, Unavailable
from vectoll.domain.ids import TransferId
from vectoll.domain.ledger import Hold, Transfer, system_account
from vectoll.ports.clock import Clock

RETRY_S = 0.1
_BEYOND = (asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)
"""A sum is more than a balance or a key's spend can be: than its table allows, or than 64 bits hold."""

_log = logging.getLogger("vectoll.storage")


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """A charge to be made, of ``tokens`` of a hold."""

    hold: Hold
    tokens: int
    duration_ms: int


class Charges:
    """Makes charges, and answers for those whose connection was lost on the way.

    A group is tried again until ``Database.timeout_s`` is over: a charge that was made before is found by its id and
    not made twice. What is given up then is answered with Unavailable, and remembered in ``undecided`` before that:
    whether it was made will be known when the database is back.
    """

    def __init__(self, database: Database, clock: Clock, undecided: UndecidedCharges) -> None:
        self._database = database
        self._clock = clock
        self._undecided = undecided
        self._batcher: MicroBatcher[ChargeRequest, Transfer] = MicroBatcher(
            self._charge, lambda request: request.hold.id
        )

    def submit(self, request: ChargeRequest) -> "asyncio.Future[Transfer]":
        """Make one charge in the next group, whatever becomes of the future."""
        return self._batcher.submit(request)

    async def close(self) -> None:
        """Finish what was asked for."""
        await self._batcher.close()

    async def settle(self, hold: Hold) -> Transfer:
        """The charge under this hold's id: the one that was made, else one of nothing, so that none can be made later.

        Also after ``close``.
        """
        [outcome] = await self._make([ChargeRequest(hold, 0, 0)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _charge(self, requests: Sequence[ChargeRequest]) -> Sequence[Transfer | Exception]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._database.timeout_s
        may_be_made = False
        while True:
            try:
                return await self._make(requests)
            except _BEYOND as error:
                if len(requests) > 1:
                    raise  # so that each is made alone: the others may fit
                raise Unavailable(_bound(error)) from error
            except Unavailable as error:
                may_be_made |= isinstance(error, OutcomeUnknown)
                if loop.time() >= give_up_at or self._database.is_closed:
                    await self._give_up(requests, may_be_made)
                    raise
            await asyncio.sleep(RETRY_S)

    async def _make(self, requests: Sequence[ChargeRequest]) -> Sequence[Transfer | Exception]:
        """One attempt. Raises OutcomeUnknown where some may have been made."""
        now = self._clock.now()
        made = [
            rules.charge_of(request.hold, request.tokens, request.duration_ms, now) for request in requests
        ]
        columns = [list(column) for column in zip(*map(_columns, requests, made), strict=True)]
        periods, starts = zip(*period_starts(now), strict=True)
        common = (
            to_micros(now),
            day_of(now),
            system_account("revenue", now),
            system_account("allowance", now),
            [period.value for period in periods],
            list(starts),
        )
        rows = await self._database.fetch("charge", *columns, *common)
        earlier = await self._existing([made[row[0] - 1].id for row in rows if row[1] == "exists"])
        outcomes: list[Transfer | Exception] = list(made)
        for number, outcome, seq, available, spent in rows:
            request, charge = requests[number - 1], made[number - 1]
            match outcome:
                case "charged":
                    outcomes[number - 1] = replace(charge, seq=seq)
                case "exists":
                    outcomes[number - 1] = _same_charge(earlier[charge.id], request.hold)
                case _:
                    outcomes[number - 1] = refusal(request.hold, charge.amount, outcome, available, spent)
        return outcomes

    async def _existing(self, ids: Sequence[TransferId]) -> Mapping[TransferId, Transfer]:
        """Charges that exist. Raises OutcomeUnknown: they do, and the others of their group too."""
        if not ids:
            return {}
        try:
            rows = await self._database.fetch("transfers", list(ids))
        except Unavailable as error:
            raise OutcomeUnknown(str(error), retry_after_s=1) from error
        found = map(to_transfer, rows)
        return {transfer.id: transfer for transfer in found}

    async def _give_up(self, requests: Sequence[ChargeRequest], may_be_made: bool) -> None:
        """A charge with an Idempotency-Key is left as it is: its client can ask for the answer again."""
        _log.error("charges_given_up", extra={"charges": len(requests)})
        lost = [request.hold for request in requests if request.hold.fingerprint is None]
        if may_be_made:
            await asyncio.to_thread(self._undecided.add, lost)


def _columns(request: ChargeRequest, charge: Transfer) -> tuple[object, ...]:
    limit = limit_columns(request.hold, charge.created_at)[1:]
    return (
        charge.id,
        charge.request_id,
        charge.debit,
        charge.amount,
        charge.tokens,
        charge.duration_ms,
        charge.model,
        charge.key,
        charge.fingerprint,
        *limit,
    )


def _same_charge(existing: Transfer, hold: Hold) -> Transfer | Exception:
    try:
        return rules.earlier_charge(existing, hold)
    except IdempotencyConflict as error:
        return error


def _bound(error: asyncpg.PostgresError) -> str:
    """Only the house's accounts are added to in a function of their own."""
    if "add_to_account" in (getattr(error, "context", None) or ""):
        return "The ledger's own accounts have reached what can be counted this month."
    return rules.KEY_SPENT_ALL
