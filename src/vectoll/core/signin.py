"""Wallets sign in (SIWX): from one header to a Principal whose account is the wallet."""

import binascii
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vectoll.core.wallet_signatures import WalletSignatures
from vectoll.domain.identity import Principal
from vectoll.domain.siwx import (
    REMEMBERED,
    SIGNATURE_TYPES,
    SignatureType,
    SignIn,
    SignInRefused,
    SignInRule,
    SignInRules,
    broken_rule,
    chain_of,
)
from vectoll.domain.siwx_text import MessageFields, parse_message, render
from vectoll.domain.wallets import Family, parse_wallet
from vectoll.ports.clock import Clock
from vectoll.ports.nonces import NonceStore
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics

HEADERS = ("sign-in-with-x", "x-sign-in-with-x")
"""Names under which a sign-in may come, the present one first."""

MAX_HEADER_LENGTH = 16_384
"""Longer headers are refused before any work is done on them; an ERC-6492 signature needs about 6,000."""

_Text = Annotated[str, Meta(max_length=4096)]
MAX_SIGNATURE_LENGTH = 12_000
"""Of a signature in hex; what an ERC-6492 one with a large factory call needs, and a passkey's."""

_Signature = Annotated[str, Meta(min_length=1, max_length=MAX_SIGNATURE_LENGTH)]


def has_sign_in(headers: Mapping[str, str]) -> bool:
    """Whether a wallet claims to have signed this request."""
    return any(name in headers for name in HEADERS)


class _Payload(Struct, frozen=True, rename="camel"):
    """Both shapes at once: the spec's carries ``message``, the x402 SDKs' its fields."""

    address: Annotated[str, Meta(min_length=32, max_length=44)]
    signature: _Signature
    chain_id: Annotated[int, Meta(ge=1, le=2**53)] | Annotated[str, Meta(max_length=64)]
    type: SignatureType | None = None
    message: _Text | None = None
    timestamp: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    domain: _Text | None = None
    statement: _Text | None = None
    uri: _Text | None = None
    version: _Text | None = None
    nonce: _Text | None = None
    issued_at: _Text | None = None
    expiration_time: _Text | None = None
    not_before: _Text | None = None
    request_id: _Text | None = None
    resources: Annotated[tuple[_Text, ...], Meta(max_length=64)] | None = None


_DECODER = msgspec.json.Decoder(_Payload)


def decode_sign_in(header: str) -> SignIn:
    """Take a header apart, without judging it. Raises SignInRefused: MALFORMED, MESSAGE or MISMATCH."""
    payload = _decode(header)
    text = payload.message if payload.message is not None else _rebuild(payload)
    message = parse_message(text)
    if (
        _canonical(payload.address) != message.wallet.text
        or chain_of(payload.chain_id, message.wallet.family) != message.chain
        or payload.type not in (None, *SIGNATURE_TYPES[message.wallet.family])
    ):
        raise SignInRefused(SignInRule.MISMATCH)
    return SignIn(message, text, payload.signature, payload.timestamp)


def _decode(header: str) -> _Payload:
    if len(header) > MAX_HEADER_LENGTH:
        raise SignInRefused(SignInRule.MALFORMED)
    try:
        return _DECODER.decode(binascii.a2b_base64(header.encode("ascii"), strict_mode=True))
    except (UnicodeError, binascii.Error, msgspec.DecodeError, RecursionError):
        raise SignInRefused(SignInRule.MALFORMED) from None


def _canonical(address: str) -> str:
    try:
        return parse_wallet(address).text
    except ValueError:
        raise SignInRefused(SignInRule.MALFORMED) from None


def _rebuild(payload: _Payload) -> str:
    """The text that an x402 SDK signed."""
    family = Family.EVM if payload.address[:2].lower() == "0x" else Family.SOLANA
    chain = chain_of(payload.chain_id, family)
    required = (payload.domain, payload.uri, payload.version, payload.nonce, payload.issued_at)
    if chain is None or not all(required):
        raise SignInRefused(SignInRule.MALFORMED)
    fields = MessageFields(
        domain=payload.domain or "",
        address=payload.address,
        uri=payload.uri or "",
        version=payload.version or "",
        chain=chain,
        nonce=payload.nonce or "",
        issued_at=payload.issued_at or "",
        statement=payload.statement,
        expiration_time=payload.expiration_time,
        not_before=payload.not_before,
        request_id=payload.request_id,
        resources=payload.resources or (),
    )
    return render(fields, family)


class SiwxAuthenticator:
    """Rules first, then the signature, then the nonce: what is cheap refuses before what is dear."""

    def __init__(
        self,
        rules: SignInRules,
        signatures: WalletSignatures,
        nonces: NonceStore,
        clock: Clock,
        metrics: PaymentMetrics = NO_PAYMENT_METRICS,
    ) -> None:
        self._metrics = metrics
        self._rules = rules
        self._signatures = signatures
        self._nonces = nonces
        self._clock = clock

    async def authenticate(self, headers: Mapping[str, str], client: str) -> Principal | None:
        """None when no sign-in was sent. Raises SignInRefused for one that does not hold, RateLimited."""
        header = next((headers[name] for name in HEADERS if name in headers), None)
        if header is None:
            return None
        try:
            return await self._sign_in(header, client)
        except SignInRefused as error:
            self._metrics.sign_in_refused(error.rule)
            raise

    async def _sign_in(self, header: str, client: str) -> Principal:
        sign_in = decode_sign_in(header)
        now = self._clock.now()
        if rule := broken_rule(sign_in, self._rules, now):
            raise SignInRefused(rule)
        message = sign_in.message
        if not await self._signatures.are_by(
            message.wallet, sign_in.text, sign_in.signature, [message.chain], client
        ):
            raise SignInRefused(SignInRule.SIGNATURE)
        account = message.wallet.account
        good_until = message.good_until + REMEMBERED
        if not await self._nonces.consume(account, message.nonce, now, good_until):
            raise SignInRefused(SignInRule.REPLAYED)
        return Principal(account=account, wallet=message.wallet)
