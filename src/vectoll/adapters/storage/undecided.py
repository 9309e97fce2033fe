"""Charges in doubt: given up before anyone knew whether they were made.

They are on disk, so that a process that is killed leaves them to the next.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vectoll.adapters.storage.durable import sync
from vectoll.domain.identity import Principal
from vectoll.domain.ids import AccountId, ModelId, RequestId, TransferId, new_id
from vectoll.domain.ledger import Hold
from vectoll.domain.money import Price, Quote

MAX_UNWRITTEN = 10_000
"""Charges that are remembered only in memory, where they cannot be written; the oldest are then left as they are."""

_log = logging.getLogger("vectoll.storage")


class _Charge(msgspec.Struct, frozen=True):
    """What finding out needs, and no more."""

    id: TransferId
    account: AccountId
    model: ModelId
    request_id: RequestId


class UndecidedCharges:
    """A directory with one file per group of charges. Any process that shares it may settle them: settling is by id and
    idempotent, so two may do it at once. Without a directory they are kept in memory.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._unwritten: deque[Hold] = deque(maxlen=MAX_UNWRITTEN)

    def add(self, holds: Sequence[Hold]) -> None:
        """Remember them: durably on return, or in memory where they cannot be written. Blocks for the disk."""
        if not holds:
            return
        try:
            self._write(holds)
        except OSError as error:
            details = {"charges": len(holds), "reason": error.strerror}
            _log.error("undecided_charges_not_written", extra=details)
            self._unwritten.extend(holds)

    def groups(self) -> Iterator[Sequence[Hold]]:
        """Every group on record. Asking for the next forgets the one before: settle each first. Raises OSError."""
        while self._unwritten:
            yield [self._unwritten[0]]
            self._unwritten.popleft()
        for file in self._files():
            try:
                charges = msgspec.json.decode(file.read_bytes(), type=list[_Charge])
            except FileNotFoundError:
                continue  # somebody else was faster
            except msgspec.DecodeError:
                _log.error("undecided_charges_unreadable", extra={"file": str(file)})
                continue
            yield [_hold_of(charge) for charge in charges]
            file.unlink(missing_ok=True)

    def _write(self, holds: Sequence[Hold]) -> None:
        if self._directory is None:
            self._unwritten.extend(holds)
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self._directory / f"{new_id('group')}.json"
        unfinished = file.with_suffix(".part")
        charges = [_Charge(h.id, h.principal.account, h.quote.model, h.request_id) for h in holds]
        try:
            unfinished.write_bytes(msgspec.json.encode(charges))
            sync(unfinished)
            unfinished.rename(file)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        sync(self._directory)

    def _files(self) -> Sequence[Path]:
        return [] if self._directory is None else sorted(self._directory.glob("*.json"))


def _hold_of(charge: _Charge) -> Hold:
    """A hold of nothing under the same id."""
    quote = Quote(charge.model, 0, Price.per_million("0"))
    return Hold(charge.id, Principal(charge.account), quote, charge.request_id)
