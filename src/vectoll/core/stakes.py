"""Daily allowances from staked tokens: one snapshot of all stakes a day, from one block.

A stake can move between wallets within a day, and be spent by each of them, if wallets are looked at when they call.
So all known wallets are looked at together, once a day; who comes later waits for the next day.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from vectoll.domain.allowances import StakeSnapshot, day_of, staked_allowance
from vectoll.domain.identity import next_epoch
from vectoll.domain.ids import AccountId
from vectoll.domain.wallets import Family, WalletAddress, parse_wallet
from vectoll.ports.allowances import Allowances, StakeReader
from vectoll.ports.clock import Clock
from vectoll.ports.wallets import RpcUnavailable

RETRY_S = 30.0
"""Pause after a chain did not answer, and the longest between two looks at the clock."""
AT_ONCE = 16
"""Wallets that are asked about at the same time."""

_log = logging.getLogger("vectoll.stakes")


class StakedAllowances:
    """Reads the stakes of every EVM wallet that has an account: it was credited, or has minted an API key."""

    def __init__(self, allowances: Allowances, stakes: StakeReader, clock: Clock, minimum: int) -> None:
        """``minimum`` in base units."""
        self._allowances = allowances
        self._stakes = stakes
        self._clock = clock
        self._minimum = minimum
        self._reading: _Reading | None = None

    async def refresh(self) -> bool:
        """Take today's snapshot, unless there is one. Whether this call took it.

        Raises RpcUnavailable when any answer is missing: then nothing is granted, and the next call asks for what is
        missing, of the same block. Once a call learns nothing new, the next reads all anew: a node may have forgotten
        that block.
        """
        day = day_of(self._clock.now())
        if await self._allowances.snapshot(day) is not None:
            return False
        wallets = _wallets(await self._allowances.accounts())
        reading = self._reading
        if reading is None or reading.snapshot.day != day:
            reading = _Reading(StakeSnapshot(day, await self._stakes.block()))
        known = len(reading.staked)
        await self._ask(reading, [wallet for wallet in wallets if wallet.account not in reading.staked])
        missing = sum(wallet.account not in reading.staked for wallet in wallets)
        self._reading = reading if missing and len(reading.staked) > known else None
        if missing:
            raise RpcUnavailable(f"the stakes of {missing} wallets are not known")
        stakes = {
            account: amount
            for account, base_units in reading.staked.items()
            if (amount := staked_allowance(base_units, self._minimum))
        }
        return await self._allowances.record(reading.snapshot, stakes)

    async def _ask(self, reading: "_Reading", wallets: Sequence[WalletAddress]) -> None:
        """Note what each has staked, until nobody answers. Whoever is not answered for stays missing."""
        for start in range(0, len(wallets), AT_ONCE):
            group = wallets[start : start + AT_ONCE]
            questions = (self._stakes.staked(wallet, reading.snapshot.block) for wallet in group)
            answers = await asyncio.gather(*questions, return_exceptions=True)
            known = len(reading.staked)
            for wallet, answer in zip(group, answers, strict=True):
                if isinstance(answer, int):
                    reading.staked[wallet.account] = answer
                elif not isinstance(answer, RpcUnavailable):
                    raise answer
            if len(reading.staked) == known:
                return

    async def watch(self) -> None:
        """Refresh now and at each 00:00 UTC, again and again while the chain does not answer, until cancelled."""
        while True:
            try:
                if await self.refresh():
                    _log.info("stakes_read")
            except RpcUnavailable:
                _log.warning("stakes_unknown")
            except Exception:  # noqa: BLE001 - logged; one round's defect must not end the watch
                _log.exception("stakes_failed")
            now = self._clock.now()
            until_midnight = (next_epoch(now) - now) / timedelta(seconds=1)
            await asyncio.sleep(min(RETRY_S, until_midnight))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is known of a snapshot that is being taken: the stakes of one block, which do not change any more."""

    snapshot: StakeSnapshot
    staked: dict[AccountId, int] = field(default_factory=dict)


def _wallets(accounts: Sequence[AccountId]) -> list[WalletAddress]:
    wallets = []
    for account in accounts:
        try:
            wallet = parse_wallet(account)
        except ValueError:
            continue
        if wallet.family is Family.EVM and wallet.account == account:
            wallets.append(wallet)
    return wallets
