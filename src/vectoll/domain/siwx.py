"""Sign-in with a wallet (SIWX): what the signed text says, and the rules it must keep.

A message is EIP-4361 on EVM chains, its Solana sibling on Solana. Nothing here does I/O or cryptography.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from vectoll.domain.errors import Unauthenticated
from vectoll.domain.wallets import Family, WalletAddress

MAX_AGE = timedelta(minutes=5)
"""How old a sign-in without an expiration time may be."""
MAX_TTL = timedelta(minutes=10)
"""How long after issuing a sign-in is good at most, whatever its expiration time says."""
MAX_SKEW = timedelta(seconds=30)
"""How far a client's clock may be ahead, and how far ``timestamp`` may be from ``issuedAt``."""
REMEMBERED = timedelta(days=1)
"""How much longer than it is good a nonce is remembered: a server's clock that was ahead for a moment forgets none."""


class SignInRule(StrEnum):
    """Which rule a sign-in broke: the answer's stable ``code``."""

    MALFORMED = "X402_SIGN_IN_MALFORMED"
    MESSAGE = "X402_SIGN_IN_MESSAGE"
    MISMATCH = "X402_SIGN_IN_MISMATCH"
    DOMAIN = "X402_SIGN_IN_DOMAIN"
    VERSION = "X402_SIGN_IN_VERSION"
    CHAIN = "X402_SIGN_IN_CHAIN"
    NONCE = "X402_SIGN_IN_NONCE"
    TOO_OLD = "X402_SIGN_IN_TOO_OLD"
    IN_FUTURE = "X402_SIGN_IN_IN_FUTURE"
    EXPIRED = "X402_SIGN_IN_EXPIRED"
    NOT_YET_VALID = "X402_SIGN_IN_NOT_YET_VALID"
    TIMESTAMP = "X402_SIGN_IN_TIMESTAMP"
    SIGNATURE = "X402_SIGN_IN_SIGNATURE"
    UNVERIFIABLE = "X402_SIGN_IN_UNVERIFIABLE"
    REPLAYED = "X402_SIGN_IN_REPLAYED"


_WHAT = {
    SignInRule.MALFORMED: "the header is not base64 of a JSON sign-in payload",
    SignInRule.MESSAGE: "the message is not a well-formed EIP-4361 or Solana sign-in message",
    SignInRule.MISMATCH: "address, chainId and type of the payload do not agree with the signed message",
    SignInRule.DOMAIN: "the message was signed for another domain",
    SignInRule.VERSION: "the message's version is not 1",
    SignInRule.CHAIN: "the chain is not accepted here",
    SignInRule.NONCE: "the nonce is not 8 to 128 letters and digits",
    SignInRule.TOO_OLD: "the message was issued too long ago; sign a fresh one",
    SignInRule.IN_FUTURE: "the message was issued in the future; check the clock",
    SignInRule.EXPIRED: "the message has expired; sign a fresh one",
    SignInRule.NOT_YET_VALID: "the message is not valid yet",
    SignInRule.TIMESTAMP: "timestamp is not within 30 seconds of the message's Issued At",
    SignInRule.SIGNATURE: "the signature does not match the message and address",
    SignInRule.UNVERIFIABLE: "this contract wallet's signature cannot be checked now; try again in a minute",
    SignInRule.REPLAYED: "the nonce was used before; sign a fresh message for every request",
}


class SignInRefused(Unauthenticated):
    """A sign-in was sent and does not hold. ``rule`` says why; always 401, never a request to pay."""

    def __init__(self, rule: SignInRule, what: str | None = None) -> None:
        """``what`` is said where the rule was broken by something else than a sign-in's header."""
        super().__init__(f"Sign-in failed: {what or _WHAT[rule]}.")
        self.rule = rule
        self.code = rule.value


class SignatureType(StrEnum):
    """How the signature is to be checked, in CAIP-122's words."""

    EIP191 = "eip191"
    EIP1271 = "eip1271"
    ED25519 = "ed25519"


SIGNATURE_TYPES = {
    Family.EVM: (SignatureType.EIP191, SignatureType.EIP1271),
    Family.SOLANA: (SignatureType.ED25519,),
}
"""How wallets of each family may sign; the first is meant where none is named."""


@dataclass(frozen=True, slots=True)
class SignInMessage:
    """The signed text, taken apart. Datetimes are aware."""

    wallet: WalletAddress
    domain: str
    version: str
    chain: str
    """A CAIP-2 id: ``eip155:8453``, ``solana:5eykt…``."""
    nonce: str
    issued_at: datetime
    expiration_time: datetime | None = None
    not_before: datetime | None = None

    @property
    def good_until(self) -> datetime:
        """When the message stops being acceptable: how long its nonce must be remembered at least."""
        if self.expiration_time is None:
            return self.issued_at + MAX_AGE
        return min(self.expiration_time, self.issued_at + MAX_TTL)


@dataclass(frozen=True, slots=True)
class SignIn:
    """One header: a message, the exact text that was signed, and the signature over it."""

    message: SignInMessage
    text: str
    signature: str
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SignInRules:
    """What this server accepts. ``domains`` are bare lower-case host names, ``chains`` CAIP-2 ids."""

    domains: frozenset[str]
    chains: frozenset[str]


def broken_rule(sign_in: SignIn, rules: SignInRules, now: datetime) -> SignInRule | None:
    """The first rule that a sign-in breaks at ``now``; None when only signature and nonce remain to be checked."""
    message = sign_in.message
    if host_of(message.domain) not in rules.domains:
        return SignInRule.DOMAIN
    if message.version != "1":
        return SignInRule.VERSION
    if message.chain not in rules.chains:
        return SignInRule.CHAIN
    if not (8 <= len(message.nonce) <= 128 and message.nonce.isascii() and message.nonce.isalnum()):
        return SignInRule.NONCE
    return _broken_time(message, sign_in.timestamp_ms, now)


def _broken_time(message: SignInMessage, timestamp_ms: int | None, now: datetime) -> SignInRule | None:
    issued, expires = message.issued_at, message.expiration_time
    if issued > now + MAX_SKEW:
        return SignInRule.IN_FUTURE
    if expires is not None and expires <= now:
        return SignInRule.EXPIRED
    if message.good_until <= now:
        return SignInRule.TOO_OLD
    if message.not_before is not None and message.not_before > now:
        return SignInRule.NOT_YET_VALID
    if timestamp_ms is not None and abs(timestamp_ms - _milliseconds(issued)) > _MAX_SKEW_MS:
        return SignInRule.TIMESTAMP
    return None


_MAX_SKEW_MS = int(MAX_SKEW.total_seconds() * 1000)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def host_of(domain: str) -> str | None:
    """``https://API.Example.com:8443/path`` → ``api.example.com``. None where no plain host is named."""
    rest = domain.partition("://")[2] if "://" in domain else domain
    for mark in "/?#":
        rest = rest.partition(mark)[0]
    if "@" in rest:
        return None  # user@host reads as one host and means another
    host = rest[: rest.find("]") + 1] if rest.startswith("[") else rest.partition(":")[0]
    return host.lower() or None


def chain_of(value: int | str, family: Family) -> str | None:
    """The CAIP-2 id that a ``chainId`` or a ``Chain ID:`` line names: 8453, "8453", "eip155:8453", with or
    without ``solana:``, and the bare names ``base`` and ``solana``. None when it is of another family or no id.
    """
    text = str(value)
    text = _NAMES.get(text, text)
    prefix, colon, reference = text.rpartition(":")
    if colon and prefix != family.value:
        return None
    if family is Family.EVM and not (reference.isascii() and reference.isdigit() and reference[0] != "0"):
        return None
    if not (0 < len(reference) <= 32 and reference.isascii() and reference.isalnum()):
        return None
    return f"{family.value}:{reference}"


BaseNetwork = Literal["eip155:8453", "eip155:84532"]
BASE: Final[BaseNetwork] = "eip155:8453"
BASE_SEPOLIA: Final[BaseNetwork] = "eip155:84532"
SolanaNetwork = Literal["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"]
SOLANA: Final[SolanaNetwork] = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
SOLANA_DEVNET: Final[SolanaNetwork] = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
_NAMES = {"base": BASE, "base-sepolia": BASE_SEPOLIA, "solana": SOLANA, "solana-devnet": SOLANA_DEVNET}
