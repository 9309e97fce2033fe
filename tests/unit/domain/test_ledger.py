"""The ledger's values."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.ledger import ALICE, make_credit

from vectoll.domain.identity import LimitPeriod
from vectoll.domain.ids import new_id
from vectoll.domain.ledger import Balance, Disagreement, Verification, is_system, system_account
from vectoll.domain.money import Amount


def test_the_house_has_an_account_per_month() -> None:
    assert system_account("revenue", datetime(2026, 3, 1, tzinfo=UTC)) == "$revenue:2026-03"
    assert is_system(system_account("credit", datetime(2026, 3, 1, tzinfo=UTC)))
    assert not is_system(ALICE)


def test_available_is_what_is_not_held() -> None:
    assert Balance(Amount(10), Amount(4)).available == 6


@pytest.mark.parametrize(("credit", "allowance"), [(0, 0), (0, 3), (3, 0), (2, 1)])
def test_nothing_is_available_where_more_is_held_than_there_is(credit: int, allowance: int) -> None:
    balance = Balance(Amount(credit), Amount(4), Amount(allowance), Amount(allowance))
    assert (balance.available, balance.available_credit, balance.available_allowance) == (0, 0, 0)


def test_transfers_are_equal_whatever_their_place() -> None:
    transfer = make_credit("1")
    assert replace(transfer, seq=7) == transfer
    assert replace(transfer, amount=Amount(1)) != transfer


def test_a_verification_is_clean_without_disagreements() -> None:
    assert Verification(1, 1, ()).is_clean
    assert not Verification(1, 1, (Disagreement("balance of alice", "1", "2"),)).is_clean


@pytest.mark.parametrize(
    ("period", "start"),
    [
        (LimitPeriod.EPOCH, datetime(2026, 3, 31, tzinfo=UTC)),
        (LimitPeriod.MONTH, datetime(2026, 3, 1, tzinfo=UTC)),
        (LimitPeriod.LIFETIME, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_periods_start_in_utc(period: LimitPeriod, start: datetime) -> None:
    assert period.start(datetime(2026, 3, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == start


def test_new_ids_differ_and_sort_by_time() -> None:
    ids = [new_id("chg") for _ in range(1000)]
    assert len(set(ids)) == 1000
    times = [an_id[4:16] for an_id in ids]
    assert times == sorted(times)
