"""How often one charge may be asked for again: each repeat is computed, and pays nothing."""

from collections import Counter
from datetime import timedelta

from vectoll.domain.errors import IdempotencyKeySpent
from vectoll.domain.ids import TransferId
from vectoll.domain.ledger import Transfer
from vectoll.ports.clock import Clock

MAX_REPEATS = 32
MAX_AGE = timedelta(hours=24)
MAX_REMEMBERED = 100_000
"""Charges whose repeats are counted; beyond, the oldest is forgotten, at the cost of as many repeats of others."""


class Repeats:
    """Counts in this process: another gateway, or this one after a restart, counts anew; all see a charge's age."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: Counter[TransferId] = Counter()
        self._counts: dict[TransferId, int] = {}

    def begin(self, charge_id: TransferId, earlier: Transfer | None) -> None:
        """One request under a key begins; ``earlier`` is the charge that was made for it. ``end`` follows.

        What begins while another is under way is a repeat, too. Raises IdempotencyKeySpent, and then has not begun.
        """
        if earlier is not None and self._clock.now() - earlier.created_at >= MAX_AGE:
            raise IdempotencyKeySpent(f"was charged more than {MAX_AGE // timedelta(hours=1)} hours ago")
        if earlier is not None or self._under_way[charge_id]:
            self._count(charge_id)
        self._under_way[charge_id] += 1

    def end(self, charge_id: TransferId) -> None:
        """It is over, however."""
        self._under_way[charge_id] -= 1
        if not self._under_way[charge_id]:
            del self._under_way[charge_id]

    def _count(self, charge_id: TransferId) -> None:
        count = self._counts.get(charge_id, 0)
        if count >= MAX_REPEATS:
            raise IdempotencyKeySpent(f"was repeated {MAX_REPEATS} times")
        if len(self._counts) >= MAX_REMEMBERED and not count:
            del self._counts[next(iter(self._counts))]
        self._counts[charge_id] = count + 1
