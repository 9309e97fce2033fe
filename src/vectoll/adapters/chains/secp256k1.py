"""Ethereum's hash and signatures, over libsecp256k1 and PyCryptodome."""

from btclib_libsecp256k1 import recovery
from btclib_libsecp256k1.keys import pubkey_from_prvkey
from Crypto.Hash import keccak

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_HALF_ORDER = _ORDER // 2


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it: 32 bytes. Not SHA3-256, which pads differently."""
    return keccak.new(digest_bits=256, data=data).digest()


def _address_of(public_key: bytes) -> bytes:
    """The 20 bytes of the address that an uncompressed public key of 65 bytes controls."""
    return keccak256(public_key[1:])[-20:]


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The 20-byte address whose key signed a 32-byte digest; None for anything but one canonical signature.

    Canonical: 65 bytes ``r ‖ s ‖ v``, ``v`` 27 or 28 (or 0 or 1), ``r`` and ``s`` in range, ``s`` in the lower
    half of the order (EIP-2), so that nobody can turn one signature into a second one.
    """
    if len(signature) != 65:
        return None
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    recovery_id = signature[64] - 27 if signature[64] >= 27 else signature[64]
    if recovery_id not in (0, 1) or not 0 < r < _ORDER or not 0 < s <= _HALF_ORDER:
        return None
    try:
        key = recovery.recover(digest, signature[:64], recovery_id, compressed=False)
    except ValueError:  # r is not on the curve
        return None
    return _address_of(key)


def eip191_digest(text: bytes) -> bytes:
    """What ``personal_sign`` signs."""
    return keccak256(b"\x19Ethereum Signed Message:\n" + str(len(text)).encode() + text)


class SigningKey:
    """A private key that signs digests. Its repr shows the address only."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError unless ``secret`` is 32 bytes, above zero and below the order."""
        self._secret = secret
        self.address = _address_of(pubkey_from_prvkey(secret, compressed=False))

    def __repr__(self) -> str:
        return f"SigningKey(0x{self.address.hex()})"

    def sign(self, digest: bytes) -> tuple[int, int, int]:
        """``(y_parity, r, s)`` over a 32-byte digest; deterministic (RFC 6979), ``s`` in the lower half."""
        signature, y_parity = recovery.sign(digest, self._secret)
        return y_parity, int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
