"""Sign-in signatures of EVM wallets that are a key pair: EIP-191."""

from vectoll.adapters.chains.secp256k1 import eip191_digest, recover
from vectoll.domain.wallets import WalletAddress


class EvmSignatureVerifier:
    """Recovers the signer from the signature; libsecp256k1 does the arithmetic."""

    def is_signed_by(self, wallet: WalletAddress, text: str, signature: str) -> bool:
        """Whether the wallet's key signed ``text``. ``signature`` is 65 bytes in hex, ``0x`` in front."""
        raw = hex_bytes(signature)
        return raw is not None and recover(eip191_digest(text.encode()), raw) == wallet.raw


def hex_bytes(text: str) -> bytes | None:
    """``0x`` and an even number of hex digits; None for anything else."""
    if not text.startswith("0x") or not text.isascii() or any(map(str.isspace, text)):
        return None
    try:
        return bytes.fromhex(text[2:])
    except ValueError:
        return None
