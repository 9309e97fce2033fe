"""Wallets sign in (SIWX): from one header to a Principal whose account is the wallet."""

import binascii
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vectoll.core.admission import refuse_blocked
from vectoll.domain.errors import RateLimited
from vectoll.domain.identity import Principal
from vectoll.domain.limits import RateLimit
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
from vectoll.domain.wallets import Family, WalletAddress, parse_wallet
from vectoll.ports.clock import Clock
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.nonces import NonceStore
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics
from vectoll.ports.wallets import ContractWalletVerifier, RpcUnavailable, SignatureVerifier

HEADERS = ("sign-in-with-x", "x-sign-in-with-x")
"""Names under which a sign-in may come, the present one first."""

MAX_HEADER_LENGTH = 16_384
"""Longer headers are refused before any work is done on them; an ERC-6492 signature needs about 6,000."""

CHECKS_PER_CLIENT = RateLimit(30)
CHECKS_IN_ALL = RateLimit(300)
"""How often a minute a chain is asked about contract wallets: one client's share, and everybody's together.

By client, never by wallet: anybody can name a wallet, and would use up its share.
"""

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


class ContractWallets:
    """Contract wallets, within a budget: whoever can make a server ask a chain can spend its RPC allowance."""

    def __init__(self, verifier: ContractWalletVerifier, limiter: RateLimiter) -> None:
        self._verifier = verifier
        self._limiter = limiter

    async def accepts(
        self, wallet: WalletAddress, text: str, signature: str, chain: str, client: str
    ) -> bool:
        """Whether the chain, a CAIP-2 id, says that the signature holds.

        Raises SignInRefused(UNVERIFIABLE), and RateLimited for a ``client`` who is blocked or has asked too often.
        """
        await refuse_blocked(self._limiter, client)
        mine = await self._limiter.hit(CHECKS_PER_CLIENT, "contract-wallets", client)
        if not mine.allowed:
            message = (
                f"Rate limit exceeded: {CHECKS_PER_CLIENT.amount} checks of contract wallets per minute."
            )
            raise RateLimited(message, mine.state.reset_s)
        if not (await self._limiter.hit(CHECKS_IN_ALL, "contract-wallets-in-all")).allowed:
            raise SignInRefused(SignInRule.UNVERIFIABLE)
        try:
            return await self._verifier.is_accepted_by(wallet, text, signature, chain)
        except RpcUnavailable:
            raise SignInRefused(SignInRule.UNVERIFIABLE) from None


class SiwxAuthenticator:
    """Rules first, then the signature, then the nonce: what is cheap refuses before what is dear."""

    def __init__(
        self,
        rules: SignInRules,
        verifiers: Mapping[Family, SignatureVerifier],
        nonces: NonceStore,
        clock: Clock,
        contract_wallets: ContractWallets | None = None,
        metrics: PaymentMetrics = NO_PAYMENT_METRICS,
    ) -> None:
        self._metrics = metrics
        self._rules = rules
        self._verifiers = verifiers
        self._nonces = nonces
        self._clock = clock
        self._contract_wallets = contract_wallets

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
        if not await self._is_signed(sign_in, client):
            raise SignInRefused(SignInRule.SIGNATURE)
        message = sign_in.message
        account = message.wallet.account
        good_until = message.good_until + REMEMBERED
        if not await self._nonces.consume(account, message.nonce, now, good_until):
            raise SignInRefused(SignInRule.REPLAYED)
        return Principal(account=account, wallet=message.wallet)

    async def _is_signed(self, sign_in: SignIn, client: str) -> bool:
        wallet = sign_in.message.wallet
        verifier = self._verifiers[wallet.family]
        if verifier.is_signed_by(wallet, sign_in.text, sign_in.signature):
            return True
        if self._contract_wallets is None or wallet.family is not Family.EVM:
            return False
        return await self._contract_wallets.accepts(
            wallet, sign_in.text, sign_in.signature, sign_in.message.chain, client
        )
