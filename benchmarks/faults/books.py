"""What was delivered beside what was charged: the sums, and everything about them that is wrong."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.client import Purchase
from tests.postgres import execute

UNITS_PER_TOKEN = 12_500
FINAL_STATES = ("credited", "failed", "reversed")
COLUMNS = "id, debit, credit, amount, code, request_id"


@dataclass(frozen=True, slots=True)
class Entry:
    """One transfer."""

    id: str
    debit: str
    credit: str
    amount: int
    code: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is in the database, from one moment."""

    entries: Sequence[Entry]
    balances: Mapping[str, int]
    payments: Sequence[tuple[str, str, int]]
    """Payer, state, base units."""


@dataclass
class Books:
    """Sums in units of 10⁻¹² USD. ``violations`` is what must be empty."""

    charges: int = 0
    charged: int = 0
    refunded: int = 0
    """Charges that the server itself gave back: it had answered that it could not make them."""
    delivered: int = 0
    retryable: int = 0
    """Charged for answers that did not arrive, which an Idempotency-Key brings back."""
    in_doubt: int = 0
    """Charged without a key where the connection broke or the caller left: nothing brings these back."""
    to_retry: list[Purchase] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


async def read_postgres(url: str) -> Ledger:
    """One snapshot each; nobody may be writing."""
    entries = await execute(url, f"SELECT {COLUMNS} FROM vectoll.transfers ORDER BY seq")
    balances = await execute(url, "SELECT id, balance FROM vectoll.accounts")
    payments = await execute(url, "SELECT payer, state, base_units FROM vectoll.payments")
    return Ledger(
        [Entry(*row) for row in entries],
        {row[0]: row[1] for row in balances},
        [(row[0], row[1], row[2]) for row in payments],
    )


def read_sqlite(path: Path) -> Ledger:
    """As above."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return Ledger(
            [Entry(*row) for row in db.execute(f"SELECT {COLUMNS} FROM transfers ORDER BY seq")],
            dict(db.execute("SELECT id, balance FROM accounts")),
            list(db.execute("SELECT payer, state, base_units FROM payments")),
        )


def compare(purchases: Sequence[Purchase], ledger: Ledger) -> Books:
    """Hold what was bought against what was charged. ``purchases`` is all there ever were, and none is under way."""
    books = Books()
    refunds = Counter({e.id: e.amount for e in ledger.entries if e.code == "REFUND"})
    charges: defaultdict[str, list[tuple[Entry, int]]] = defaultdict(list)
    for entry in ledger.entries:
        if entry.code == "CHARGE" and entry.amount:
            refund = refunds.pop(f"undelivered_{entry.id}", 0)
            charges[entry.request_id or ""].append((entry, entry.amount - refund))
            books.charges += 1
            books.charged += entry.amount
            books.refunded += refund
    for purchase in purchases:
        mine = [charge for request_id in purchase.request_ids for charge in charges.pop(request_id, [])]
        _judge(purchase, [(entry, net) for entry, net in mine if net], books)
    books.violations += [f"a charge for {len(left)} requests that nobody made" for left in charges.values()]
    books.violations += [f"a refund of nothing: {refund}" for refund in refunds]
    books.violations += [
        f"a balance below zero: {balance}"
        for account, balance in ledger.balances.items()
        if balance < 0 and not account.startswith("$")
    ]
    if books.charged - books.refunded != books.delivered + books.retryable + books.in_doubt:
        books.violations.append("the sums do not add up")
    return books


def _judge(purchase: Purchase, charges: Sequence[tuple[Entry, int]], books: Books) -> None:
    """One purchase and its charges, less what was given back."""
    net = sum(amount for _, amount in charges)
    who = "with a key" if purchase.key else "without a key"
    if len(charges) > 1:
        books.violations.append(f"charged {len(charges)} times for one request {who}")
    if any(entry.debit != purchase.account for entry, _ in charges):
        books.violations.append("charged to another account")
    if purchase.answers:
        books.delivered += net
        if net != purchase.tokens * UNITS_PER_TOKEN:
            books.violations.append(f"delivered {purchase.tokens} tokens {who} for {net}")
    elif net and purchase.key:
        books.retryable += net
        books.to_retry.append(purchase)
    elif net:
        books.in_doubt += net
        if not purchase.is_in_doubt:
            books.violations.append(f"charged, and told that it was not: {purchase.heard}")


def check_payments(paid: Mapping[str, int], moved: int, ledger: Ledger) -> list[str]:
    """``paid`` is what each payer was told was credited, ``moved`` what arrived on the chain, both in 10⁻⁶ USDC."""
    credited = Counter[str]()
    for entry in ledger.entries:
        if entry.code == "TOP_UP":
            credited[entry.credit] += entry.amount // 10**6
    problems = [
        f"credited {credited[payer]} for a payment of {units}"
        for payer, units in paid.items()
        if credited[payer] != units
    ]
    if moved != credited.total():
        problems.append(f"{moved} arrived on the chain, {credited.total()} were credited")
    if open_states := {state for _, state, _ in ledger.payments if state not in FINAL_STATES}:
        problems.append(f"payments whose outcome is open: {sorted(open_states)}")
    return problems
