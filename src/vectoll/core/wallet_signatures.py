"""Whether a wallet signed a text: arithmetic for most, a question to its chain for a contract wallet."""

from collections.abc import Mapping, Sequence

from vectoll.core.admission import refuse_blocked
from vectoll.domain.limits import RateLimit
from vectoll.domain.siwx import SignInRefused, SignInRule
from vectoll.domain.wallets import Family, WalletAddress
from vectoll.ports.limiter import RateLimiter
from vectoll.ports.wallets import ContractWalletVerifier, RpcUnavailable, SignatureVerifier

CHECKS_PER_CLIENT = RateLimit(30)
CHECKS_IN_ALL = RateLimit(300)
"""How often a minute a chain is asked about contract wallets: one client's share, and everybody's together.

By client, never by wallet: anybody can name a wallet, and would use up its share.
"""


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
        mine.check(f"{CHECKS_PER_CLIENT.amount} checks of contract wallets per minute")
        if not (await self._limiter.hit(CHECKS_IN_ALL, "contract-wallets-in-all")).allowed:
            raise SignInRefused(SignInRule.UNVERIFIABLE)
        try:
            return await self._verifier.is_accepted_by(wallet, text, signature, chain)
        except RpcUnavailable:
            raise SignInRefused(SignInRule.UNVERIFIABLE) from None


class WalletSignatures:
    """Signatures of every kind of wallet."""

    def __init__(
        self, verifiers: Mapping[Family, SignatureVerifier], contracts: ContractWallets | None = None
    ) -> None:
        self._verifiers = verifiers
        self._contracts = contracts

    async def are_by(
        self, wallet: WalletAddress, text: str, signature: str, chains: Sequence[str], client: str
    ) -> bool:
        """Whether the wallet's own key signed, or its contract on one of ``chains``, CAIP-2 ids, says that it did.

        Raises what ``ContractWallets.accepts`` raises.
        """
        if self._verifiers[wallet.family].is_signed_by(wallet, text, signature):
            return True
        if self._contracts is None or wallet.family is not Family.EVM:
            return False
        for chain in chains:
            if await self._contracts.accepts(wallet, text, signature, chain, client):
                return True
        return False
