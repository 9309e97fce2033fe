"""Settlement on Solana in this process: our fee payer completes the payer's transaction and sends it."""

import base64
from contextlib import suppress
from decimal import Decimal

from vectoll.adapters.chains.rpc import JsonRpc, RpcError, reads_answers
from vectoll.adapters.chains.solana import SolanaKey
from vectoll.adapters.payments.spl import Spl, transfer_of
from vectoll.adapters.payments.token import TokenRail
from vectoll.domain.payments import Intent, Payment, Submission
from vectoll.domain.wallets import base58_encode
from vectoll.ports.payments import Record

_SEND = {"encoding": "base64", "skipPreflight": True, "maxRetries": 5}


class SolanaRail(TokenRail):
    """USDC on Solana, settled with an own fee payer."""

    def __init__(self, rpc: JsonRpc, token: Spl, key: SolanaKey) -> None:
        super().__init__(token, rpc)
        self._key = key

    async def settle(self, payment: Payment, record: Record) -> None:
        """Sign, record, send. Ed25519 is deterministic: the signature, which is the id, is known beforehand."""
        transfer = transfer_of(payment)
        signature = self._key.sign(transfer.message)
        raw = transfer.signed_by_fee_payer(signature)
        await record(Submission(base58_encode(signature), raw))
        await self._rpc.call("sendTransaction", base64.b64encode(raw).decode(), _SEND)

    async def resend(self, intent: Intent) -> bool:
        """Send the same bytes again; the chain takes a transaction once. True: nothing else can take its place."""
        if intent.raw_tx is not None:
            with suppress(RpcError):
                await self._rpc.call("sendTransaction", base64.b64encode(intent.raw_tx).decode(), _SEND)
        return True

    @reads_answers
    async def funds(self) -> Decimal:
        """What the fee payer has, in SOL."""
        found = await self._rpc.call("getBalance", base58_encode(self._key.public_key))
        return Decimal(int(found["value"])).scaleb(-9)
