"""Accounts that just had something to spend, so that a busy caller's every large request need not ask the ledger."""

import time

from vectoll.domain.ids import AccountId
from vectoll.ports.ledger import Ledger

REMEMBERED_S = 1.0
"""Who has spent the last of it may send so much longer at most what nobody will pay for."""
MAX_REMEMBERED = 10_000


class RecentFunds:
    """What the ledger says of an account, or said a moment ago. What a request costs, the ledger itself holds."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._until: dict[AccountId, float] = {}

    async def has_any(self, account: AccountId) -> bool:
        """Whether an account has credit or allowance, held or not."""
        now = time.monotonic()
        if now < self._until.get(account, 0.0):
            return True
        balance = await self._ledger.balance(account)
        if not balance.total:
            return False
        if len(self._until) >= MAX_REMEMBERED:
            self._until.clear()
        self._until[account] = now + REMEMBERED_S
        return True
