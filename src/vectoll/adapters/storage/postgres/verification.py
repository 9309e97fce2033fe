"""``vectoll ledger verify`` for PostgreSQL."""

from vectoll.adapters.storage.audit import Audit
from vectoll.adapters.storage.postgres.database import LONG_S, Connection, sql
from vectoll.domain.ledger import Verification

CHUNK = 10_000


async def verify(connection: Connection) -> Verification:
    """Read every transfer once, in order, within the caller's snapshot; takes memory for accounts and key days only."""
    audit = Audit()
    cursor = await connection.cursor(sql("all_postings"), timeout=LONG_S)
    last = 0
    while rows := await cursor.fetch(CHUNK, timeout=LONG_S):
        audit.read(map(tuple, rows))
        last = rows[-1][0]
    head = await connection.fetchval(sql("ledger_head"))
    if head != last:
        audit.disagree("head of the ledger", f"seq {last}", f"seq {head}")
    spends = await connection.fetch(sql("all_spends"), timeout=LONG_S)
    audit.compare(
        map(tuple, await connection.fetch(sql("all_balances"), timeout=LONG_S)),
        (((key, period, start), spent) for key, period, start, spent in spends),
        map(tuple, await connection.fetch(sql("all_allowances"), timeout=LONG_S)),
    )
    return audit.verdict()
