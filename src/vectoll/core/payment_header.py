"""Reading payment headers: x402 version 2, version 1, and the mixture that clients in the field send.

Read by shape: what a client says it accepted is compared with our own options and never relied on. The signature
covers the money itself (EIP-3009 fields, or a whole Solana transaction), so nothing else needs to be believed.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from vectoll.domain.payments import (
    MAX_TIMEOUT_S,
    Payment,
    PaymentOption,
    PaymentRefused,
    TransferAuthorization,
)
from vectoll.domain.payments_solana import SolanaTransfer, parse_transfer
from vectoll.domain.siwx import chain_of
from vectoll.domain.wallets import Family, WalletAddress, base58_decode, parse_wallet

HEADERS = ("payment-signature", "x-402-payment", "x-payment")
"""Names under which a payment may come, the present one first."""

MAX_HEADER_LENGTH = 32_768

_UINT = re.compile(r"0|[1-9][0-9]{0,77}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2}){1,4096}")
_UINT256_MAX = 2**256 - 1

_Short = Annotated[str, Meta(max_length=128)]


class _Accepted(Struct, frozen=True, rename="camel"):
    scheme: _Short | None = None
    network: _Short | None = None
    asset: _Short | None = None
    pay_to: _Short | None = None


class _Authorization(Struct, frozen=True, rename="camel"):
    from_: _Short = msgspec.field(name="from")
    to: _Short
    value: _Short
    valid_after: _Short
    valid_before: _Short
    nonce: _Short


class _Scheme(Struct, frozen=True):
    signature: Annotated[str, Meta(max_length=8194)] | None = None
    authorization: _Authorization | None = None
    transaction: Annotated[str, Meta(max_length=2048)] | None = None


class _Header(Struct, frozen=True, rename="camel"):
    payload: _Scheme
    x402_version: int | None = msgspec.field(default=None, name="x402Version")
    accepted: _Accepted | None = None
    scheme: _Short | None = None
    network: _Short | None = None


_DECODER = msgspec.json.Decoder(_Header)


def payment_header(headers: Mapping[str, str]) -> str | None:
    """The payment among a request's headers (lower-case names), if there is one."""
    return next((headers[name] for name in HEADERS if name in headers), None)


def parse_payment_header(header: str, options: Sequence[PaymentOption]) -> Payment:
    """Decode base64, then as ``parse_payment``. Raises PaymentRefused."""
    if len(header) > MAX_HEADER_LENGTH:
        raise _malformed()
    try:
        return parse_payment(binascii.a2b_base64(header.encode("ascii"), strict_mode=True), options)
    except (UnicodeError, binascii.Error):
        raise _malformed() from None


def parse_payment(payload: bytes, options: Sequence[PaymentOption]) -> Payment:
    """A payment that fits one of our own options: network, scheme, asset and recipient.

    Raises PaymentRefused. Amount, times and signatures are judged later.
    """
    header = _decode(payload)
    accepted = header.accepted or _Accepted()
    scheme = accepted.scheme or header.scheme
    if header.x402_version not in (None, 1, 2) or scheme not in (None, "exact"):
        raise PaymentRefused(
            "unsupported_scheme", "Only x402 versions 1 and 2 with the scheme 'exact' are accepted."
        )
    option = _option(accepted.network or header.network, header.payload, options)
    _compare_asset(accepted, option)
    if accepted.pay_to is not None and not _same(accepted.pay_to, option.pay_to, option.family):
        raise _other_recipient()
    payment = Payment(option, _authorization(header.payload, option.family))
    check_terms(payment)
    return payment


def stored_payment(payload: bytes, option: PaymentOption) -> Payment:
    """One that was accepted once, as ``render_payment`` wrote it, whatever recipient and fee payer are asked for now.

    ``option`` is of its network. Raises PaymentRefused where another asset is asked for now.
    """
    header = _decode(payload)
    _compare_asset(header.accepted or _Accepted(), option)
    return Payment(option, _authorization(header.payload, option.family))


def check_terms(payment: Payment) -> None:
    """Whether the payment is to whom its option asks for. Raises PaymentRefused."""
    option = payment.option
    match payment.authorization:
        case TransferAuthorization() as auth:
            if auth.to != option.pay_to.lower():
                raise _other_recipient()
        case SolanaTransfer() as transfer:
            if transfer.fee_payer != base58_decode(option.extra["feePayer"]):
                raise PaymentRefused(
                    "fee_payer_mismatch", "The transaction names another fee payer than extra.feePayer."
                )
            if transfer.mint != base58_decode(option.asset) or transfer.decimals != 6:
                raise _other_asset()
            if option.token_account is None or transfer.destination != base58_decode(option.token_account):
                raise _other_recipient()


def render_payment(payment: Payment) -> bytes:
    """The payment as x402 v2 JSON: what is stored, and what a facilitator is sent."""
    return msgspec.json.encode(
        {"x402Version": 2, "accepted": requirement(payment), "payload": _scheme_payload(payment)}
    )


def requirement(payment: Payment) -> dict[str, object]:
    """Our own requirement, for exactly the amount that this payment moves."""
    option = payment.option
    return {
        "scheme": "exact",
        "network": option.network,
        "asset": option.asset,
        "amount": str(payment.base_units),
        "payTo": option.pay_to,
        "maxTimeoutSeconds": MAX_TIMEOUT_S,
        "extra": dict(option.extra),
    }


def _scheme_payload(payment: Payment) -> dict[str, object]:
    """The ``payload`` member, in the spelling of x402."""
    match payment.authorization:
        case TransferAuthorization() as auth:
            return {
                "signature": f"0x{auth.signature.hex()}",
                "authorization": {
                    "from": auth.payer.text,
                    "to": auth.to,
                    "value": str(auth.value),
                    "validAfter": str(auth.valid_after),
                    "validBefore": str(auth.valid_before),
                    "nonce": f"0x{auth.nonce.hex()}",
                },
            }
        case SolanaTransfer() as transfer:
            unsigned = transfer.signed_by_fee_payer(transfer.signatures[0])
            return {"transaction": base64.b64encode(unsigned).decode()}


def _option(network: str | None, payload: _Scheme, options: Sequence[PaymentOption]) -> PaymentOption:
    family = Family.SOLANA if payload.transaction is not None else Family.EVM
    chain = chain_of(network, family) if network else None
    for option in options:
        if option.family is family and chain in (None, option.network) and (chain or not network):
            return option
    raise PaymentRefused("unsupported_network", "The payment is for a network that is not accepted here.")


def _compare_asset(accepted: _Accepted, option: PaymentOption) -> None:
    if accepted.asset is not None and not _same(accepted.asset, option.asset, option.family):
        raise _other_asset()


def _same(a: str, b: str, family: Family) -> bool:
    return a.lower() == b.lower() if family is Family.EVM else a == b


def _authorization(payload: _Scheme, family: Family) -> TransferAuthorization | SolanaTransfer:
    return _evm(payload) if family is Family.EVM else _solana(payload)


def _evm(payload: _Scheme) -> TransferAuthorization:
    auth = payload.authorization
    if auth is None or payload.signature is None or not _HEX.fullmatch(payload.signature):
        raise _malformed()
    if not _BYTES32.fullmatch(auth.nonce):
        raise _malformed()
    return TransferAuthorization(
        payer=_evm_address(auth.from_),
        to=_evm_address(auth.to).text,
        value=_uint(auth.value),
        valid_after=_uint(auth.valid_after),
        valid_before=_uint(auth.valid_before),
        nonce=bytes.fromhex(auth.nonce[2:]),
        signature=bytes.fromhex(payload.signature[2:]),
    )


def _evm_address(text: str) -> WalletAddress:
    try:
        address = parse_wallet(text)
    except ValueError:
        raise _malformed() from None
    if address.family is not Family.EVM:
        raise _malformed()
    return address


def _uint(text: str) -> int:
    if not _UINT.fullmatch(text) or (value := int(text)) > _UINT256_MAX:
        raise _malformed()
    return value


def _solana(payload: _Scheme) -> SolanaTransfer:
    try:
        raw = binascii.a2b_base64((payload.transaction or "").encode("ascii"), strict_mode=True)
    except (UnicodeError, binascii.Error):
        raise _malformed() from None
    try:
        return parse_transfer(raw)
    except ValueError as error:
        raise PaymentRefused(
            "invalid_transaction", f"The Solana transaction is not accepted: {error}."
        ) from None


def _decode(payload: bytes) -> _Header:
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        raise _malformed() from None


def _other_asset() -> PaymentRefused:
    return PaymentRefused("asset_mismatch", "The payment is in another asset than the one asked for.")


def _other_recipient() -> PaymentRefused:
    return PaymentRefused("recipient_mismatch", "The payment is to another recipient than the one asked for.")


def _malformed() -> PaymentRefused:
    return PaymentRefused("malformed", "The payment header is not base64 of an x402 payment payload.")
