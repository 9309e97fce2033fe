"""What one gateway does beside its requests: renew its holds, settle what was given up, sweep what has lapsed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import asyncpg

from vectoll.adapters.storage.postgres.database import Database
from vectoll.adapters.storage.postgres.holds import HoldRows
from vectoll.adapters.storage.postgres.ledger import PostgresLedger
from vectoll.domain.errors import VectollError

EVERY_S = 5.0
SWEEP_EVERY = 6
"""Rounds from one sweep to the next."""

_log = logging.getLogger("vectoll.storage")


class Upkeep:
    """A task from construction to ``close``. What fails in a round is made up for by the next, whatever it was."""

    def __init__(self, database: Database, holds: HoldRows, ledger: PostgresLedger) -> None:
        self._database = database
        self._holds = holds
        self._ledger = ledger
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """One last attempt to settle what was given up, then no more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._attempt(self._ledger.undo_undelivered)

    async def _work(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(EVERY_S)
            rounds += 1
            # one that nobody uses is not lost unseen
            await self._attempt(partial(self._database.fetch, "ping"))
            await self._attempt(self._holds.renew)
            await self._attempt(self._ledger.undo_undelivered)
            if rounds % SWEEP_EVERY == 0:
                await self._attempt(partial(self._database.fetch, "sweep_holds"))
                await self._attempt(partial(self._database.fetch, "sweep_limits"))

    async def _attempt(self, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except (VectollError, asyncpg.PostgresError, OSError) as error:
            if not self._database.reachability.is_lost:  # which was told already
                _log.warning("upkeep_late", extra={"reason": str(error)})
        except Exception:  # noqa: BLE001 - logged; one round's defect must not end the renewal of everybody's holds
            _log.exception("upkeep_failed")
