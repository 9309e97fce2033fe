"""What is needed of Ethereum's encodings: call data, EIP-712 digests of EIP-3009, EIP-1559 transactions in RLP."""

from collections.abc import Sequence
from dataclasses import dataclass

from vectoll.adapters.chains.secp256k1 import SigningKey, keccak256

Word = int | bytes | str
"""An integer, up to 32 bytes (right-aligned when an address, as ``0x`` text), or exactly 32 bytes."""


def selector(signature: str) -> bytes:
    """The first four bytes of a function's hash: ``selector("balanceOf(address)")``."""
    return keccak256(signature.encode())[:4]


def word(value: Word) -> bytes:
    """One 32-byte word: an integer, an address as ``0x`` text, or 32 raw bytes."""
    if isinstance(value, int):
        return value.to_bytes(32, "big")
    if isinstance(value, str):
        return bytes.fromhex(value.removeprefix("0x")).rjust(32, b"\0")
    if len(value) != 32:
        raise ValueError("raw words are 32 bytes")
    return value


def call_data(signature: str, *words: Word, tail: bytes | None = None) -> bytes:
    """A call with static arguments, and one last ``bytes`` argument where ``tail`` is given."""
    head = [word(value) for value in words]
    if tail is None:
        return selector(signature) + b"".join(head)
    head.append(word(32 * (len(words) + 1)))
    padded = tail + bytes(-len(tail) % 32)
    return selector(signature) + b"".join(head) + word(len(tail)) + padded


_ERC6492_MARK = bytes.fromhex("6492" * 16)


@dataclass(frozen=True, slots=True)
class Erc6492:
    """A signature of a wallet that need not be deployed yet: what deploys it, and what the wallet then judges."""

    factory: bytes
    deployment: bytes
    signature: bytes


def erc6492_of(signature: bytes) -> Erc6492 | None:
    """``abi.encode(address factory, bytes deployment, bytes signature)`` and the mark; None without the mark.

    Raises ValueError for what has the mark and is cut short.
    """
    if not signature.endswith(_ERC6492_MARK):
        return None
    data = signature[:-32]
    return Erc6492(data[12:32], _tail(data, 1), _tail(data, 2))


def _tail(data: bytes, argument: int) -> bytes:
    start = int.from_bytes(data[32 * argument : 32 * argument + 32], "big")
    size = int.from_bytes(data[start : start + 32], "big")
    if start + 32 + size > len(data):
        raise ValueError("truncated")
    return data[start + 32 : start + 32 + size]


_EIP712_DOMAIN = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


def eip712_domain(name: str, version: str, chain_id: int, contract: str) -> bytes:
    """The domain separator of a contract."""
    return keccak256(
        _EIP712_DOMAIN
        + keccak256(name.encode())
        + keccak256(version.encode())
        + word(chain_id)
        + word(contract)
    )


def eip712_digest(domain: bytes, struct_type: bytes, *words: Word) -> bytes:
    """What a wallet signs for a struct of static members; ``struct_type`` is the type's own hash."""
    return keccak256(b"\x19\x01" + domain + keccak256(struct_type + b"".join(map(word, words))))


@dataclass(frozen=True, slots=True)
class Eip1559Call:
    """A transaction of type 2 that calls a contract and sends no ether."""

    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas: int
    to: str
    data: bytes

    def sign(self, key: SigningKey) -> tuple[bytes, str]:
        """The raw transaction and its hash as ``0x`` text; the same call is always the same transaction."""
        fields: list[_Rlp] = [
            self.chain_id,
            self.nonce,
            self.max_priority_fee,
            self.max_fee,
            self.gas,
            bytes.fromhex(self.to.removeprefix("0x")),
            0,
            self.data,
            [],
        ]
        y_parity, r, s = key.sign(keccak256(b"\x02" + rlp(fields)))
        raw = b"\x02" + rlp([*fields, y_parity, r, s])
        return raw, f"0x{keccak256(raw).hex()}"


_Rlp = int | bytes | Sequence["_Rlp"]


def rlp(item: _Rlp) -> bytes:
    """Recursive length prefix; an integer is its shortest big-endian bytes."""
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _rlp_length(len(item), 0x80) + item
    body = b"".join(map(rlp, item))
    return _rlp_length(len(body), 0xC0) + body


def _rlp_length(size: int, offset: int) -> bytes:
    if size < 56:
        return bytes([offset + size])
    encoded = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(encoded)]) + encoded
