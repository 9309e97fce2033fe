"""Holds in the memory of the one process that grants them."""

from typing import TypeVar

from vectoll.adapters.storage.rules import available, check_limit, limited_key
from vectoll.domain.allowances import Day
from vectoll.domain.errors import IdempotencyConflict, InsufficientBalance, Unavailable
from vectoll.domain.ids import AccountId, KeyId, RequestId, TransferId
from vectoll.domain.ledger import Hold
from vectoll.domain.money import ZERO, Amount

MAX_HOLDS = 100_000

K = TypeVar("K", bound=str)


class Holds:
    """Active holds, and what they add up to for each account and each key with a limit.

    Not thread-safe: belongs to one event loop, in which every method runs in one step. Empty when nothing is
    held, so it takes memory for requests in flight only.
    """

    def __init__(self) -> None:
        self._active: dict[TransferId, dict[RequestId, tuple[Hold, Day]]] = {}
        self._by_account: dict[AccountId, int] = {}
        self._by_key: dict[KeyId, int] = {}

    def held(self, account: AccountId) -> Amount:
        """The sum of an account's holds, those being charged included."""
        return Amount(self._by_account.get(account, ZERO))

    def take(self, hold: Hold, funds: int, spent: int, day: Day) -> None:
        """Hold the quote, if it fits ``funds`` and the key's limit beside everything that is held already.

        ``funds`` is the balance and what is left of the allowance of ``day``, which is today; ``spent`` is what the
        key has spent in its current period. Taking an active hold again changes nothing.
        Raises IdempotencyConflict, InsufficientBalance, SpendLimitReached, or Unavailable for too many holds.
        """
        same_id = self._active.get(hold.id, {})
        if any(other.fingerprint != hold.fingerprint for other, _ in same_id.values()):
            raise IdempotencyConflict
        if hold.request_id in same_id:
            return
        if len(self._active) >= MAX_HOLDS:
            raise Unavailable("Too many requests are in flight. Please try again.", retry_after_s=1)
        amount, account = hold.quote.amount, hold.principal.account
        held = self._by_account.get(account, ZERO)
        if funds - held < amount:
            raise InsufficientBalance(amount, available(funds, held))
        if limited := limited_key(hold):
            key, limit = limited
            check_limit(limit, spent, self._by_key.get(key, ZERO) + amount)
        self._active.setdefault(hold.id, {})[hold.request_id] = hold, day
        self._count(hold, amount)

    def claim(self, hold: Hold) -> Day | None:
        """Deactivate a hold; its amount stays held until ``settle``. The day it was taken; None if inactive."""
        same_id = self._active.get(hold.id, {})
        found = same_id.pop(hold.request_id, None)
        if found is None:
            return None
        if not same_id:
            del self._active[hold.id]
        return found[1]

    def settle(self, hold: Hold) -> None:
        """Free the amount of a claimed hold."""
        self._count(hold, -hold.quote.amount)

    def release(self, hold: Hold) -> None:
        """Give back an active hold; does nothing for any other."""
        if self.claim(hold) is not None:
            self.settle(hold)

    def _count(self, hold: Hold, amount: int) -> None:
        _add(self._by_account, hold.principal.account, amount)
        if limited := limited_key(hold):
            _add(self._by_key, limited[0], amount)


def _add(sums: dict[K, int], key: K, amount: int) -> None:
    """Zeros are dropped, so that the map is never larger than what is in flight."""
    total = sums.get(key, 0) + amount
    if total:
        sums[key] = total
    else:
        sums.pop(key, None)
