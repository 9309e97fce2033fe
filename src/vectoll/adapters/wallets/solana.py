"""Sign-in signatures of Solana wallets: Ed25519."""

import binascii

from vectoll.adapters.chains.solana import is_signature
from vectoll.domain.wallets import WalletAddress, base58_decode


class SolanaSignatureVerifier:
    """libsodium's check: rejects keys of small order and signatures that are not reduced."""

    def is_signed_by(self, wallet: WalletAddress, text: str, signature: str) -> bool:
        """Whether the wallet's key signed ``text``. ``signature`` is 64 bytes in base58 or base64."""
        raw = signature_bytes(signature)
        return raw is not None and is_signature(wallet.raw, text.encode(), raw)


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
