"""What is needed of Solana: Ed25519 signatures and addresses that programs own."""

import hashlib

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from vectoll.domain.payments_solana import TOKEN_PROGRAM
from vectoll.domain.wallets import base58_decode

_TOKEN_ACCOUNTS = base58_decode("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
_PRIME = 2**255 - 19
_D = -121665 * pow(121666, -1, _PRIME) % _PRIME


def is_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether 64 bytes are the Ed25519 signature of a message under a 32-byte key.

    libsodium's check: keys of small order and signatures that are not reduced are rejected.
    """
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


class SolanaKey:
    """A key pair that signs. Its repr shows nothing."""

    def __init__(self, pair: bytes) -> None:
        """``pair`` is the seed and the public key, 64 bytes, as wallets export it. Raises ValueError."""
        if len(pair) != 64:
            raise ValueError("a Solana key pair has 64 bytes")
        self.public_key, self._secret = crypto_sign_seed_keypair(pair[:32])
        if self.public_key != pair[32:]:
            raise ValueError("the two halves of the key pair do not belong together")

    def __repr__(self) -> str:
        return "SolanaKey()"

    def sign(self, message: bytes) -> bytes:
        """64 bytes; the same message always has the same signature."""
        return crypto_sign(message, self._secret)[:64]


def token_account(owner: bytes, mint: bytes) -> bytes:
    """The associated token account: the first program address, counting down, that is not on the curve."""
    for bump in range(255, -1, -1):
        seeds = owner + TOKEN_PROGRAM + mint + bytes([bump])
        address = hashlib.sha256(seeds + _TOKEN_ACCOUNTS + b"ProgramDerivedAddress").digest()
        if not _is_on_curve(address):
            return address
    raise ValueError("no program address")  # one in 2^256


def _is_on_curve(point: bytes) -> bool:
    """Whether 32 bytes are the y of a point of edwards25519: whether (y²−1)/(dy²+1) is a square."""
    y2 = pow(int.from_bytes(point, "little") & (2**255 - 1), 2, _PRIME)
    x2 = (y2 - 1) * pow(_D * y2 + 1, -1, _PRIME)
    return pow(x2, (_PRIME - 1) // 2, _PRIME) in (0, 1)
