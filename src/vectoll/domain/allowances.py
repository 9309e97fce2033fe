"""Daily allowances: credit that is new every UTC day, is spent before prepaid credit, and is never rolled over."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NewType

from vectoll.domain.ids import AccountId
from vectoll.domain.money import MAX_AMOUNT, UNITS_PER_USD, ZERO, Amount

Day = NewType("Day", str)
"""A UTC day, ``2026-11-18``."""

TOKEN_DECIMALS = 18
_BASE_UNITS_PER_AMOUNT = 10**TOKEN_DECIMALS // UNITS_PER_USD


@dataclass(frozen=True, slots=True)
class DailyAllowance:
    """One account's allowance on one day."""

    account: AccountId
    per_day: Amount
    """What an operator granted for every day."""
    staked: Amount
    """What the wallet's stake gives on this day."""
    granted: Amount
    """The two together; never less than what is spent."""
    spent: Amount

    @property
    def left(self) -> Amount:
        """What can still be spent today."""
        return Amount(self.granted - self.spent)


@dataclass(frozen=True, slots=True)
class StakeSnapshot:
    """The block from which a day's stakes were read. A day has one, and never another."""

    day: Day
    block: int


def day_of(instant: datetime) -> Day:
    """The UTC day that holds an aware instant."""
    return Day(instant.astimezone(UTC).date().isoformat())


def granted_amount(per_day: int, staked: int, spent: int) -> Amount:
    """A day's grant: at most ``MAX_AMOUNT``, and never less than what has been spent of it."""
    return Amount(max(spent, min(per_day + staked, MAX_AMOUNT)))


def staked_allowance(base_units: int, minimum: int) -> Amount:
    """$1 a day for each whole token of 18 decimals, in proportion, rounded down to 10⁻¹² USD.

    Nothing for a stake below ``minimum`` (in base units too), and at most ``MAX_AMOUNT``.
    """
    if base_units < minimum:
        return ZERO
    return Amount(min(base_units // _BASE_UNITS_PER_AMOUNT, MAX_AMOUNT))
