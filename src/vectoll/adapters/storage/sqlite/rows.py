"""Reading single rows."""

import sqlite3

from vectoll.adapters.storage.rows import to_transfer
from vectoll.adapters.storage.sqlite.connection import sql
from vectoll.domain.ids import AccountId, TransferId
from vectoll.domain.ledger import Transfer
from vectoll.domain.money import ZERO, Amount


def read_balance(connection: sqlite3.Connection, account: AccountId) -> Amount:
    """What is committed for an account; zero for one that does not exist."""
    row = connection.execute(sql("balance"), (account,)).fetchone()
    return row[0] if row else ZERO


def read_transfer(connection: sqlite3.Connection, transfer_id: TransferId) -> Transfer | None:
    """One transfer by id."""
    row = connection.execute(sql("transfer"), (transfer_id,)).fetchone()
    return to_transfer(row) if row else None
