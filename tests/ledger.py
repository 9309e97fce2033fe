"""Values and a clock for tests of the ledger."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vectoll.domain.identity import ApiKey, KeyKind, Principal, SpendLimit, digest_of
from vectoll.domain.ids import AccountId, KeyId, ModelId, RequestId, TransferId, new_id
from vectoll.domain.ledger import Hold, Transfer, TransferCode, system_account
from vectoll.domain.money import Amount, Price, Quote, usd

ALICE = AccountId("alice")
BOB = AccountId("bob")
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
PRICE = Price.per_million("0.0125")
TOKEN = PRICE.of(1)


@dataclass
class FixedClock:
    """Stands still until told."""

    time: datetime = NOON

    def now(self) -> datetime:
        return self.time

    def advance(self, **duration: float) -> None:
        self.time += timedelta(**duration)


def make_hold(
    tokens: int = 1,
    account: AccountId = ALICE,
    *,
    charge_id: str | None = None,
    request_id: str | None = None,
    key: str | None = None,
    limit: SpendLimit | None = None,
    fingerprint: bytes | None = None,
    price: Price = PRICE,
) -> Hold:
    return Hold(
        id=TransferId(charge_id or new_id("chg")),
        principal=Principal(account, None if key is None else KeyId(key), limit=limit),
        quote=Quote(ModelId("minilm"), tokens, price),
        request_id=RequestId(request_id or new_id("req")),
        fingerprint=fingerprint or (b"the same request" if charge_id else None),
    )


def make_credit(
    amount: Amount | int | str,
    account: AccountId = ALICE,
    *,
    transfer_id: str | None = None,
    at: datetime = NOON,
    code: TransferCode = TransferCode.CREDIT,
) -> Transfer:
    """A grant of ``amount`` units, or of dollars when it is a string."""
    return Transfer(
        id=TransferId(transfer_id or new_id("crd")),
        debit=system_account("credit", at),
        credit=account,
        amount=usd(amount) if isinstance(amount, str) else Amount(amount),
        code=code,
        created_at=at,
    )


def make_debit(amount: int, account: AccountId = ALICE, *, at: datetime = NOON) -> Transfer:
    """A payment that its chain took back."""
    return Transfer(
        id=TransferId(new_id("rev")),
        debit=account,
        credit=system_account("credit", at),
        amount=Amount(amount),
        code=TransferCode.REVERSAL,
        created_at=at,
    )


def make_key(
    name: str = "k",
    account: AccountId = ALICE,
    *,
    created_at: datetime = NOON,
    expires_at: datetime | None = None,
    limit: SpendLimit | None = None,
    kind: KeyKind = KeyKind.INFERENCE,
    is_pro: bool = False,
) -> ApiKey:
    return ApiKey(
        id=KeyId(f"key_{name}"),
        account=account,
        kind=kind,
        name=name,
        digest=digest_of(f"vtk_{name}"),
        prefix="vtk_",
        last6="abcdef",
        created_at=created_at,
        expires_at=expires_at,
        limit=limit,
        is_pro=is_pro,
    )
