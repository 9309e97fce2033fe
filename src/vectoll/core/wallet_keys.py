"""A wallet makes itself an API key: it signs a challenge, once, and the key spends the wallet's credit."""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from vectoll.core.wallet_signatures import WalletSignatures
from vectoll.domain.identity import Principal
from vectoll.domain.instants import format_instant
from vectoll.domain.siwx import MAX_AGE, MAX_SKEW, REMEMBERED, SignInRefused, SignInRule
from vectoll.domain.siwx_text import parse_time
from vectoll.domain.wallets import WalletAddress, parse_wallet
from vectoll.ports.clock import Clock
from vectoll.ports.nonces import NonceStore
from vectoll.ports.payment_metrics import NO_PAYMENT_METRICS, PaymentMetrics

_TOKEN = re.compile(r"Create an API key for (\S{1,255})\. Nonce: ([0-9a-f]{32})\. Issued At: (\S{20,32})")
_NO_CHALLENGE = "token is not a challenge from GET generate_web3_key"


class WalletKeys:
    """Challenges in plain words, so that a wallet shows its owner what is signed, and for whom.

    Nothing is stored for a challenge: what counts is that the wallet signed this server's name and a recent time, and
    that the nonce was not used before. A challenge names no chain, so a contract wallet is looked for on ``chains``,
    CAIP-2 ids of EVM networks, in their order.
    """

    def __init__(
        self,
        domain: str,
        signatures: WalletSignatures,
        nonces: NonceStore,
        clock: Clock,
        chains: Sequence[str] = (),
        metrics: PaymentMetrics = NO_PAYMENT_METRICS,
    ) -> None:
        self._metrics = metrics
        self._domain = domain
        self._signatures = signatures
        self._nonces = nonces
        self._clock = clock
        self._chains = chains

    def challenge(self) -> str:
        """A fresh text to sign, good for five minutes."""
        issued_at = format_instant(self._clock.now())
        return f"Create an API key for {self._domain}. Nonce: {secrets.token_hex(16)}. Issued At: {issued_at}"

    async def redeem(self, address: str, token: str, signature: str, client: str) -> Principal:
        """The wallet that signed a challenge. Consumes the nonce only once all holds.

        Raises SignInRefused, and RateLimited for a ``client`` whose contract wallets were asked about too often.
        """
        try:
            return await self._redeem(address, token, signature, client)
        except SignInRefused as error:
            self._metrics.sign_in_refused(error.rule)
            raise

    async def _redeem(self, address: str, token: str, signature: str, client: str) -> Principal:
        wallet = _wallet(address)
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise SignInRefused(SignInRule.MESSAGE, _NO_CHALLENGE)
        domain, nonce, issued = found.groups()
        if domain != self._domain:
            raise SignInRefused(SignInRule.DOMAIN)
        now, issued_at = self._clock.now(), _time(issued)
        if issued_at > now + MAX_SKEW:
            raise SignInRefused(SignInRule.IN_FUTURE)
        if issued_at + MAX_AGE <= now:
            raise SignInRefused(SignInRule.TOO_OLD)
        if not await self._signatures.are_by(wallet, token, signature, self._chains, client):
            raise SignInRefused(SignInRule.SIGNATURE)
        good_until = issued_at + MAX_AGE + REMEMBERED
        if not await self._nonces.consume(wallet.account, f"key:{nonce}", now, good_until):
            raise SignInRefused(SignInRule.REPLAYED)
        return Principal(account=wallet.account, wallet=wallet)


def _wallet(address: str) -> WalletAddress:
    try:
        return parse_wallet(address)
    except ValueError:
        raise SignInRefused(SignInRule.MALFORMED, "address is not an EVM or Solana address") from None


def _time(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError:
        raise SignInRefused(SignInRule.MESSAGE, _NO_CHALLENGE) from None
