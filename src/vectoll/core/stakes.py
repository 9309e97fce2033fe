"""Daily allowances from staked tokens: one snapshot of all stakes a day, from one block.

A stake can move between wallets within a day, and be spent by each of them, if wallets are looked at when they call.
So all known wallets are looked at together, once a day; who comes later waits for the next day.
"""

import asyncio
import logging
from collections.abc import Sequence
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

    async def refresh(self) -> bool:
        """Take today's snapshot, unless there is one. Whether this call took it.

        Raises RpcUnavailable when any answer is missing: then nothing is granted, and the next call reads all anew.
        """
        day = day_of(self._clock.now())
        if await self._allowances.snapshot(day) is not None:
            return False
        wallets = _wallets(await self._allowances.accounts())
        block = await self._stakes.block()
        staked: list[int] = []
        for start in range(0, len(wallets), AT_ONCE):
            group = (self._stakes.staked(wallet, block) for wallet in wallets[start : start + AT_ONCE])
            staked += await asyncio.gather(*group)
        stakes = {
            wallet.account: amount
            for wallet, base_units in zip(wallets, staked, strict=True)
            if (amount := staked_allowance(base_units, self._minimum))
        }
        return await self._allowances.record(StakeSnapshot(day, block), stakes)

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
