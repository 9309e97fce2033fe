"""Settlement on an EVM chain in this process: a gas key of our own sends the payer's authorisation."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

from vectoll.adapters.chains.evm import Eip1559Call
from vectoll.adapters.chains.rpc import JsonRpc, RpcError, reads_answers
from vectoll.adapters.chains.secp256k1 import SigningKey
from vectoll.adapters.payments.eip3009 import Eip3009, transfer_call
from vectoll.adapters.payments.token import TokenRail
from vectoll.domain.payments import Intent, Payment, Submission
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcUnavailable

_GAS_LIMIT = 400_000
"""USDC takes about 90,000 for a key's signature; a contract wallet runs code of its own on top."""
_MAX_FEE_WEI = 100 * 10**9
"""A node that quotes more per gas than this is wrong, or not worth believing."""
_MIN_TIP_WEI = 10**6
_GROWTH = 20
"""How many times dearer gas may become while a payment is valid: 2 % a block on Base, for 150 blocks. A transaction
that cannot pay the price holds up all those behind it."""
_AT_ONCE = 32
"""How many transactions at once the key's ether must pay for, each at its highest price."""
_NONCE_ATTEMPTS = 32
"""A failed attempt means that another process sent a payment first: one of four often loses three times in a row."""
_NONCE_MEMORY_S = 60.0
"""How long our own count is believed over a node that may lag behind; then the chain is right again."""


class BaseRail(TokenRail):
    """USDC on Base (or another EVM chain), settled with an own key. One instance per key and process."""

    def __init__(self, rpc: JsonRpc, token: Eip3009, key: SigningKey) -> None:
        super().__init__(token, rpc)
        self._eip3009 = token
        self._key = key
        self._address = f"0x{key.address.hex()}"
        self._nonces = _Nonces(rpc, self._address)

    async def verify(self, payment: Payment) -> int:
        """Make sure that our key can pay the gas, and run the transfer as it would send it, with that gas."""
        max_fee, tip = await self._fees()
        gas = {"gas": _GAS_LIMIT, "maxFeePerGas": max_fee, "maxPriorityFeePerGas": tip}
        return await self._eip3009.verify_from(
            payment, {"from": self._address} | {k: hex(n) for k, n in gas.items()}
        )

    async def settle(self, payment: Payment, record: Record) -> None:
        """Sign, record, send. One at a time, so that each takes the nonce after the last one sent.

        A nonce that somebody else who has the key was quicker to use is no reason to fail: the next one is taken.
        """
        for _ in range(_NONCE_ATTEMPTS):
            try:
                await self._send(payment, record)
            except RpcError as error:
                if not _is_nonce_taken(error):
                    raise
            else:
                return
        raise RpcUnavailable("somebody else is using the settlement key")

    async def _send(self, payment: Payment, record: Record) -> None:
        max_fee, tip = await self._fees()
        async with self._nonces.next() as nonce:
            call = Eip1559Call(
                chain_id=self._eip3009.chain_id,
                nonce=nonce,
                max_priority_fee=tip,
                max_fee=max_fee,
                gas=_GAS_LIMIT,
                to=self.option.asset,
                data=transfer_call(payment),
            )
            raw, tx = call.sign(self._key)
            await record(Submission(tx, raw))
            await self._rpc.call("eth_sendRawTransaction", f"0x{raw.hex()}")

    async def resend(self, intent: Intent) -> bool:
        """Send the same bytes again; a node that knows them says so. False when another one has used their nonce."""
        if intent.raw_tx is None:
            return True
        try:
            await self._rpc.call("eth_sendRawTransaction", f"0x{intent.raw_tx.hex()}")
        except RpcError as error:
            if _NONCE_USED in error.message.lower():  # by itself, if it is in a block
                return await self._rpc.call("eth_getTransactionByHash", intent.tx) is not None
        return True

    async def funds(self) -> Decimal:
        """What the key has, in ether."""
        return Decimal(await self._balance()).scaleb(-18)

    @reads_answers
    async def _balance(self) -> int:
        return int(await self._rpc.call("eth_getBalance", self._address, "latest"), 16)

    @reads_answers
    async def _fees(self) -> tuple[int, int]:
        """The most to pay per gas, and the tip; in wei. Twice the base fee at least, more where the key has more."""
        block = await self._rpc.call("eth_getBlockByNumber", "latest", False)
        try:
            tip = max(_MIN_TIP_WEI, int(await self._rpc.call("eth_maxPriorityFeePerGas"), 16))
        except RpcError:  # not every node offers it
            tip = _MIN_TIP_WEI
        base = int(block["baseFeePerGas"], 16)
        least, balance = 2 * base + tip, await self._balance()
        if least > _MAX_FEE_WEI:
            raise RpcUnavailable("the node quotes an absurd gas price")
        if balance < least * _GAS_LIMIT:
            raise RpcUnavailable("the settlement key cannot pay for gas")
        ample = min(_GROWTH * base + tip, balance // (_GAS_LIMIT * _AT_ONCE), _MAX_FEE_WEI)
        return max(least, ample), tip


_NONCE_USED = "nonce too low"


def _is_nonce_taken(error: RpcError) -> bool:
    """Whether a node refuses a transaction because another one has its nonce, in a block or on the way to one."""
    message = error.message.lower()
    return _NONCE_USED in message or "replacement transaction underpriced" in message


class _Nonces:
    """The gas key's next nonce: the chain's count, or ours while a node has not caught up with it.

    A nonce is only counted once its transaction was accepted, so that a failed send leaves no gap.
    """

    def __init__(self, rpc: JsonRpc, address: str) -> None:
        self._rpc = rpc
        self._address = address
        self._lock = asyncio.Lock()
        self._ours = 0
        self._counted_at = 0.0

    @asynccontextmanager
    async def next(self) -> AsyncIterator[int]:
        """The next nonce, which is this caller's alone. It counts as used unless the block raises."""
        async with self._lock:
            pending = await self._pending()
            recent = time.monotonic() - self._counted_at < _NONCE_MEMORY_S
            nonce = max(pending, self._ours if recent else 0)
            self._ours = 0  # not known, until it is
            yield nonce
            self._ours = nonce + 1
            self._counted_at = time.monotonic()

    @reads_answers
    async def _pending(self) -> int:
        return int(await self._rpc.call("eth_getTransactionCount", self._address, "pending"), 16)
