"""Wallets as account holders: EVM and Solana addresses in one canonical spelling each."""

import re
from dataclasses import dataclass
from enum import StrEnum

from vectoll.domain.ids import AccountId

_EVM = re.compile(r"0[xX][0-9a-fA-F]{40}")
_BASE58_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE = {character: value for value, character in enumerate(_BASE58_ALPHABET)}
MAX_BASE58_LENGTH = 128
"""Longest text that is decoded: 64 bytes, a Solana signature, need at most 88 characters."""


class Family(StrEnum):
    """Chains that sign and spell addresses the same way (the first part of a CAIP-2 id)."""

    EVM = "eip155"
    SOLANA = "solana"


@dataclass(frozen=True, slots=True)
class WalletAddress:
    """An address in canonical spelling: EVM lower-case ``0x…``; Solana base58, whose case matters."""

    family: Family
    text: str

    @property
    def account(self) -> AccountId:
        """The ledger account of this wallet."""
        return AccountId(self.text)

    @property
    def raw(self) -> bytes:
        """20 bytes for EVM, 32 for Solana."""
        return bytes.fromhex(self.text[2:]) if self.family is Family.EVM else base58_decode(self.text)


def parse_wallet(text: str) -> WalletAddress:
    """``0x`` and 40 hex digits of either case, or base58 of exactly 32 bytes. Raises ValueError."""
    if _EVM.fullmatch(text):
        return WalletAddress(Family.EVM, text.lower())
    if len(text) > 44 or len(base58_decode(text)) != 32:
        raise ValueError("not a wallet address")
    return WalletAddress(Family.SOLANA, text)


def base58_decode(text: str) -> bytes:
    """Bitcoin's base58, one spelling per value. Raises ValueError for other characters and over-long text."""
    if len(text) > MAX_BASE58_LENGTH:
        raise ValueError("base58 text is too long")
    value = 0
    for character in text:
        digit = _BASE58_VALUE.get(character)
        if digit is None:
            raise ValueError("not base58")
        value = value * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + value.to_bytes((value.bit_length() + 7) // 8, "big")


def base58_encode(data: bytes) -> str:
    """Bitcoin's base58."""
    value = int.from_bytes(data, "big")
    digits: list[str] = []
    while value:
        value, digit = divmod(value, 58)
        digits.append(_BASE58_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))
