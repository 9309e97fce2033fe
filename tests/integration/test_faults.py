"""The failure suite at a small size: ``python -m benchmarks.faults`` is the same at any."""

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.faults.books import Entry, Ledger, check_payments, compare
from benchmarks.faults.client import Purchase
from benchmarks.faults.suite import Plan, run

SEED = 20261122
PRICE = 3 * 12_500
CHARGE = Entry("c1", "alice", "$revenue:2026-11", PRICE, "CHARGE", "r1")
BALANCES = {"alice": 1}


@pytest.mark.timeout(900)  # a machine that is paused, or busy with others, takes its time
async def test_everything_is_killed_and_nobody_is_charged_wrongly(tmp_path: Path) -> None:
    plan = Plan(SEED, kills=5, harms=3, check_every=8)
    print(f"seed {plan.seed}")
    report = await run(plan, tmp_path, print)
    assert report.violations == []
    assert report.kills.keys() == {"gateway 1", "gateway 2", "replica 1", "replica 2", "postgres"}
    assert report.harms.total() == 3
    assert report.books["delivered"] > 0


def bought(*, key: str | None = None, answers: int = 1, is_in_doubt: bool = False) -> Purchase:
    purchase = Purchase("alice", {}, b"", ["text"], key, ["r0", "r1"], answers, 3)
    purchase.is_in_doubt = is_in_doubt
    return purchase


def books_of(purchase: Purchase, *entries: Entry, balance: int = 1) -> list[str]:
    return compare([purchase], Ledger(entries, BALANCES | {"alice": balance}, [])).violations


@pytest.mark.parametrize(
    "purchase",
    [bought(), bought(key="k", answers=2), bought(key="k", answers=0), bought(answers=0, is_in_doubt=True)],
)
def test_books_that_are_right(purchase: Purchase) -> None:
    assert books_of(purchase, CHARGE) == []


def test_books_tell_what_can_be_had_again_from_what_cannot() -> None:
    ledger = Ledger([CHARGE], BALANCES, [])
    with_key = compare([bought(key="k", answers=0)], ledger)
    assert (with_key.retryable, with_key.in_doubt, len(with_key.to_retry)) == (PRICE, 0, 1)
    without = compare([bought(answers=0, is_in_doubt=True)], ledger)
    assert (without.retryable, without.in_doubt, without.to_retry) == (0, PRICE, [])


def test_a_charge_that_was_given_back_is_none() -> None:
    refund = Entry("undelivered_c1", "$revenue:2026-11", "alice", PRICE, "REFUND", "r1")
    assert books_of(bought(answers=0), CHARGE, refund) == []


@pytest.mark.parametrize(
    ("purchase", "entries", "problem"),
    [
        (bought(), [], "delivered 3 tokens"),
        (bought(), [replace(CHARGE, amount=1)], "delivered 3 tokens"),
        (bought(key="k"), [CHARGE, replace(CHARGE, id="c2", request_id="r0")], "charged 2 times"),
        (bought(answers=0), [CHARGE], "told that it was not"),
        (bought(), [CHARGE, replace(CHARGE, id="c2", request_id="r9")], "that nobody made"),
        (bought(), [replace(CHARGE, debit="bob")], "another account"),
        (bought(), [CHARGE, replace(CHARGE, id="undelivered_c9", code="REFUND")], "a refund of nothing"),
    ],
)
def test_books_that_are_wrong(purchase: Purchase, entries: list[Entry], problem: str) -> None:
    assert any(problem in found for found in books_of(purchase, *entries))


def test_a_balance_below_zero_is_wrong() -> None:
    assert books_of(bought(), CHARGE, balance=-1) == ["a balance below zero: -1"]


@pytest.mark.parametrize(
    ("times", "moved", "state", "problem"),
    [
        (2, 5, "credited", "credited 10"),
        (1, 10, "credited", "10000000 arrived"),
        (1, 5, "submitting", "open"),
    ],
)
def test_payments_that_are_wrong(times: int, moved: int, state: str, problem: str) -> None:
    entry = Entry("p", "$usdc", "0xa", 5 * 10**12, "TOP_UP", None)
    ledger = Ledger([entry] * times, {}, [("0xa", state, 5 * 10**6)])
    assert any(problem in found for found in check_payments({"0xa": 5 * 10**6}, moved * 10**6, ledger))
    assert check_payments({"0xa": 5 * 10**6}, 5 * 10**6, replace(ledger, entries=[entry], payments=[])) == []
