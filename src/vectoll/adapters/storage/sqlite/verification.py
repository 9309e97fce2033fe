"""``vectoll ledger verify`` for SQLite."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from vectoll.adapters.storage.audit import AllowanceOfDay, Audit, Posting, SpendPeriod
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.adapters.storage.sqlite.work import PAGE
from vectoll.domain.ids import AccountId
from vectoll.domain.ledger import Verification

MAX_FAULTS = 20
CHAINED = 6
"""The schema from which on histories are chained. A backup may be older."""


def verify(db: sqlite3.Connection) -> Verification:
    """Read every transfer once, in order, within the caller's snapshot; takes memory for accounts and key days only."""
    audit = Audit()
    try:
        for (fault,) in db.execute(f"PRAGMA quick_check({MAX_FAULTS})"):
            if fault != "ok":
                audit.disagree("database file", "intact", fault)
        if db.execute("PRAGMA user_version").fetchone()[0] < CHAINED:
            audit.read(cast(Iterable[Posting], db.execute(sql("all_postings"))))
        else:
            chains = _Chains(audit)
            audit.read(chains.follow(db.execute(sql("all_chained_postings"))))
            chains.compare(db)
        audit.compare(
            cast(Iterable[tuple[AccountId, int]], db.execute(sql("all_balances"))),
            _spends(db),
            cast(Iterable[AllowanceOfDay], db.execute(sql("all_allowances"))),
        )
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        audit.disagree("database file", "readable", str(error))
    return audit.verdict()


class _Chains:
    """Every account's history as it has to be: the transfer before each, and the pages.

    Of the pages only their number and the sum of their hashes is kept.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._accounts: dict[AccountId, _Chain] = {}
        self._pages = self._hashes = 0

    def follow(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Posting]:
        """Pass the postings on, each of which is held against its accounts' last."""
        for *posting, debit_before, credit_before in rows:
            seq, debit, credit, _, _, _, created_at, _ = posting
            self._follow(seq, debit, debit_before, created_at)
            self._follow(seq, credit, credit_before, created_at)
            yield cast(Posting, posting)

    def _follow(self, seq: int, account: AccountId, before: int, created_at: int) -> None:
        chain = self._accounts.get(account)
        if chain is None:
            chain = self._accounts[account] = _Chain()
        if before != chain.last_seq:
            self._audit.disagree(
                f"transfer of {account} before seq {seq}", f"seq {chain.last_seq}", f"seq {before}"
            )
        chain.last_seq = seq
        chain.transfers += 1
        if chain.transfers % PAGE == 1:
            chain.earliest = chain.latest = created_at
        else:
            chain.earliest, chain.latest = min(chain.earliest, created_at), max(chain.latest, created_at)
        if chain.transfers % PAGE == 0:
            self._pages += 1
            self._hashes += hash((account, seq, chain.earliest, chain.latest))

    def compare(self, db: sqlite3.Connection) -> None:
        """Hold what is stored of accounts and pages against what was followed."""
        for account, *stored in db.execute(sql("all_chains")):
            chain = _Chain(*stored)
            if (right := self._accounts.get(account, _Chain())) != chain:
                self._audit.disagree(f"history of {account}", str(right), str(chain))
        pages = hashes = 0
        for row in db.execute(sql("all_history_pages")):
            pages += 1
            hashes += hash(row)
        if (pages, hashes) != (self._pages, self._hashes):
            found = f"{pages} pages" if pages != self._pages else "others"
            self._audit.disagree("pages of histories", f"{self._pages} pages, as transfers make them", found)


@dataclass(slots=True)
class _Chain:
    """What was followed of one account, and of its newest page."""

    transfers: int = 0
    last_seq: int = 0
    earliest: int = 0
    latest: int = 0

    def __str__(self) -> str:
        page = f"its newest page from {self.earliest} to {self.latest}"
        return f"{self.transfers} transfers to seq {self.last_seq}, {page}"


def _spends(db: sqlite3.Connection) -> Iterable[tuple[SpendPeriod, int]]:
    for key, period, start, spent in db.execute(sql("all_spends")):
        yield (key, period, start), spent
