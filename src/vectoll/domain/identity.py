"""Who is calling, and the keys they call with."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from vectoll.domain.ids import AccountId, KeyId, new_id
from vectoll.domain.money import Amount
from vectoll.domain.wallets import WalletAddress

KEY_PREFIX = "vtk_"
"""Every opaque key starts with this, so that secret scanners and people recognise one."""


class KeyKind(StrEnum):
    """INFERENCE keys embed; ADMIN keys also manage their own account's keys."""

    INFERENCE = "INFERENCE"
    ADMIN = "ADMIN"


class LimitPeriod(StrEnum):
    """When a key's spend limit starts again (the neighbours' ``limitPeriod``)."""

    EPOCH = "EPOCH"
    """Every UTC day."""
    MONTH = "MONTH"
    """On the first of each UTC calendar month."""
    LIFETIME = "LIFETIME"
    """Never."""

    def start(self, now: datetime) -> datetime:
        """The first instant of the period that holds ``now`` (aware, UTC)."""
        match self:
            case LimitPeriod.EPOCH:
                return now.replace(hour=0, minute=0, second=0, microsecond=0)
            case LimitPeriod.MONTH:
                return now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            case LimitPeriod.LIFETIME:
                return datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SpendLimit:
    """A cap on what one key may spend in each period."""

    amount: Amount
    period: LimitPeriod


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: never the secret, only its SHA-256 (256 random bits need no slow hash)."""

    id: KeyId
    account: AccountId
    kind: KeyKind
    name: str
    digest: bytes
    prefix: str
    """The secret's first characters, for listings."""
    last6: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limit: SpendLimit | None = None
    is_pro: bool = False
    """Whether models that are marked pro-only may be used."""

    @classmethod
    def of_secret(
        cls,
        secret: str,
        account: AccountId,
        name: str,
        now: datetime,
        *,
        kind: KeyKind = KeyKind.INFERENCE,
        expires_at: datetime | None = None,
        limit: SpendLimit | None = None,
        is_pro: bool = False,
    ) -> "ApiKey":
        """A new key as it is stored; its ``secret`` is shown once and then forgotten."""
        return cls(
            id=KeyId(new_id("key")),
            account=account,
            kind=kind,
            name=name,
            digest=digest_of(secret),
            prefix=secret[:8],
            last6=secret[-6:],
            created_at=now,
            expires_at=expires_at,
            limit=limit,
            is_pro=is_pro,
        )

    def is_active(self, now: datetime) -> bool:
        """Neither revoked nor expired at ``now``."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Caller(NamedTuple):
    """Whose turn it is, and who is counted. Equal shares are first an account's, then its keys'."""

    account: str
    """An account, or a stranger's address."""
    key: str
    """An API key of the account; the same as the account where there is none."""

    @classmethod
    def keyless(cls, account: str) -> "Caller":
        """A wallet, the bearer of a JWT, or a stranger."""
        return cls(account, account)


NOBODY = Caller.keyless("")
"""Asks for no customer: a command, a check."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who has proved who they are: whose credit is spent, and under which limits."""

    account: AccountId
    key: KeyId | None = None
    """The API key, where there is one: rate limits and spend limits are the key's."""
    is_admin: bool = False
    is_pro: bool = False
    limit: SpendLimit | None = None
    wallet: WalletAddress | None = None
    """The wallet that signed this request, where one did."""

    @property
    def caller(self) -> Caller:
        """Who shares one rate limit and one place in the fair queue."""
        return Caller(self.account, self.key or self.account)


def new_secret() -> str:
    """A fresh opaque key: ``vtk_`` and 256 random bits in URL-safe base64. Shown once, never stored."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """SHA-256 of the whole secret: 32 bytes, the form in which a key is stored and looked up."""
    return hashlib.sha256(secret.encode()).digest()


def digests_equal(a: bytes, b: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a, b)


def next_epoch(now: datetime) -> datetime:
    """The next 00:00 UTC after ``now``."""
    return LimitPeriod.EPOCH.start(now) + timedelta(days=1)
