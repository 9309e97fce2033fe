"""Sign-in signatures of Solana wallets: Ed25519."""

import binascii

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from vectoll.domain.wallets import WalletAddress, base58_decode


class SolanaSignatureVerifier:
    """libsodium's check: rejects keys of small order and signatures that are not reduced."""

    def is_signed_by(self, wallet: WalletAddress, text: str, signature: str) -> bool:
        """Whether the wallet's key signed ``text``. ``signature`` is 64 bytes in base58 or base64."""
        raw = signature_bytes(signature)
        return raw is not None and is_signature(wallet.raw, text.encode(), raw)


def is_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether 64 bytes are the Ed25519 signature of a message under a 32-byte key."""
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def signature_bytes(text: str) -> bytes | None:
    """64 bytes in base58, else in base64; None for anything else."""
    for decode in (base58_decode, _base64_decode):
        try:
            raw = decode(text)
        except ValueError:
            continue
        if len(raw) == 64:
            return raw
    return None


def _base64_decode(text: str) -> bytes:
    return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
