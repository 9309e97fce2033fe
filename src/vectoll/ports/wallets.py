"""Checking who signed a text."""

from typing import Protocol

from vectoll.domain.wallets import WalletAddress


class SignatureVerifier(Protocol):
    """Cryptography only, for one family of chains: pure, fast, never raises on a stranger's input."""

    def is_signed_by(self, wallet: WalletAddress, text: str, signature: str) -> bool:
        """Whether the wallet's own key made ``signature`` over ``text``."""
        ...


class ContractWalletVerifier(Protocol):
    """Asks a chain whether a wallet that is a contract accepts a signature (EIP-1271, ERC-6492)."""

    async def is_accepted_by(self, wallet: WalletAddress, text: str, signature: str, chain: str) -> bool:
        """Whether the contract says yes. ``chain`` is a CAIP-2 id. Raises RpcUnavailable when nobody answers."""
        ...


class RpcUnavailable(Exception):
    """A chain's RPC endpoint did not answer in time, or not in the protocol. Says nothing about the question."""


class RpcSilent(RpcUnavailable):
    """It did not answer at all: who asks something else now waits as long."""
