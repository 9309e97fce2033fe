"""USDC on an EVM chain: checking authorisations before they are sent, and finding them afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vectoll.adapters.chains.evm import call_data, eip712_digest, eip712_domain, erc6492_of, word
from vectoll.adapters.chains.rpc import JsonRpc, RpcError, reads_answers
from vectoll.adapters.chains.secp256k1 import keccak256, recover
from vectoll.domain.payments import (
    REVERTED,
    Arrived,
    Intent,
    Missing,
    Never,
    Payment,
    PaymentOption,
    PaymentRefused,
    Sighting,
    TransferAuthorization,
)
from vectoll.ports.wallets import RpcUnavailable

_TRANSFER_TYPE = keccak256(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_USED = "0x" + keccak256(b"AuthorizationUsed(address,bytes32)").hex()
_CANCELED = "0x" + keccak256(b"AuthorizationCanceled(address,bytes32)").hex()
_TRANSFER = "0x" + keccak256(b"Transfer(address,address,uint256)").hex()
_LAG = 10
"""Blocks by which one node behind a provider's address may be ahead of another."""
_LOG_SPAN = 2_000
"""Most blocks per search. Many RPC providers allow that; some allow ten, which is found out."""


@dataclass(frozen=True, slots=True)
class _Head:
    number: int
    timestamp: int


class Eip3009:
    """One token on one chain, read through one RPC endpoint."""

    def __init__(self, rpc: JsonRpc, option: PaymentOption, confirmations: int) -> None:
        self._rpc = rpc
        self.option = option
        self.confirmations = confirmations
        self.chain_id = int(option.network.partition(":")[2])
        self._log_span = _LOG_SPAN
        self._domain = eip712_domain(
            option.extra["name"], option.extra["version"], self.chain_id, option.asset
        )

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's own key signed."""
        auth = authorization_of(payment)
        digest = eip712_digest(
            self._domain,
            _TRANSFER_TYPE,
            auth.payer.text,
            auth.to,
            auth.value,
            auth.valid_after,
            auth.valid_before,
            auth.nonce,
        )
        return recover(digest, auth.signature) == auth.payer.raw

    async def verify(self, payment: Payment) -> int:
        """``verify_from`` the recipient, who may send it like anybody else."""
        return await self.verify_from(payment, {"from": self.option.pay_to})

    @reads_answers
    async def verify_from(self, payment: Payment, sender: Mapping[str, str]) -> int:
        """Run the transfer without sending it. Raises PaymentRefused with the word for what is wrong.

        ``sender`` is the call's ``from``, and the gas and its price where they are known: code can tell a simulation
        by them.
        """
        head = await self._block("latest")  # asked first: what arrives, arrives after it
        call = {**sender, "to": self.option.asset, "data": f"0x{transfer_call(payment).hex()}"}
        try:
            await self._rpc.call("eth_call", call, "latest")
        except RpcError as error:
            if not error.is_revert:
                raise
            if await self._awaits_deployment(payment):
                raise PaymentRefused("wallet_not_deployed", _NOT_DEPLOYED) from None
            raise _refusal(error.message) from None
        return max(0, head.number - _LAG)

    @reads_answers
    async def balance(self, payment: Payment) -> int:
        """What the payer has."""
        data = call_data("balanceOf(address)", payment.payer.text)
        call = {"to": self.option.asset, "data": f"0x{data.hex()}"}
        return int(await self._rpc.call("eth_call", call, "latest"), 16)

    async def _awaits_deployment(self, payment: Payment) -> bool:
        """Whether this is a wallet's ERC-6492 signature, and the wallet is not there for the token to ask."""
        auth = authorization_of(payment)
        if inner_signature(auth.signature) is auth.signature:
            return False
        return bool(await self._rpc.call("eth_getCode", auth.payer.text, "latest") == "0x")

    @reads_answers
    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """By the receipt of the transaction that was sent, else by the authorisation's own log."""
        auth = authorization_of(payment)
        latest = await self._block("latest")
        receipt = await self._receipt(intent.tx) if intent.tx is not None else None
        if receipt is not None and (arrived := await self._arrived(auth, receipt, latest)) is not None:
            return arrived
        if await self._is_used(auth, "latest"):
            return await self._search(auth, intent.since_block, latest)
        has_reverted = receipt is not None and int(receipt["status"], 16) != 1
        return await self._unused(auth, REVERTED if has_reverted else "")

    async def _unused(self, auth: TransferAuthorization, reason: str) -> Sighting:
        """Nobody has used the authorisation. Once it has lapsed by a final block, nobody can."""
        final = await self._block("finalized")
        if final.timestamp >= auth.valid_before and not await self._is_used(auth, hex(final.number)):
            return Never("expired", by_absence=True)
        return Missing(reason)

    async def _search(self, auth: TransferAuthorization, since: int, latest: _Head) -> Sighting:
        """The authorisation was used or cancelled by somebody: find out where, and for what.

        Only what was read proves that it was not for us: a cancellation, or the receipt of its use. A log or receipt
        that is not there may be missing from this one node: RpcUnavailable.
        """
        final = await self._block("finalized")
        log = await self._spending_log(auth, since, max(latest.number, final.number))
        if log["topics"][0].lower() != _CANCELED:
            receipt = await self._receipt(log["transactionHash"])
            if receipt is None or not _has_log(receipt["logs"], auth, self.option):
                raise RpcUnavailable("the node has the log, but not its receipt")
            if (arrived := await self._arrived(auth, receipt, latest)) is not None:
                return arrived
        reason = "authorization_used_otherwise"
        return Never(reason) if int(log["blockNumber"], 16) <= final.number else Missing(reason)

    async def _spending_log(self, auth: TransferAuthorization, since: int, newest: int) -> Mapping[str, Any]:
        """The log of the authorisation's use or cancellation: there is one. Raises RpcUnavailable if not here."""
        # what was too much once may have been a busy node
        self._log_span = min(2 * self._log_span, _LOG_SPAN)
        start = since
        while start <= newest:
            end = min(start + self._log_span - 1, newest)
            try:
                logs = await self._logs(auth, start, end)
            except RpcError:  # each node words it differently that these are too many blocks
                if start == end:
                    raise
                self._log_span = (end - start + 1) // 2
                continue
            if logs:
                return dict(logs[0])
            start = end + 1
        raise RpcUnavailable("the authorisation is used, and the node does not show where")

    async def _logs(self, auth: TransferAuthorization, start: int, end: int) -> Sequence[Mapping[str, Any]]:
        topics = [[_USED, _CANCELED], _topic(auth.payer.text), f"0x{auth.nonce.hex()}"]
        wanted = {
            "address": self.option.asset,
            "topics": topics,
            "fromBlock": hex(start),
            "toBlock": hex(end),
        }
        return list(await self._rpc.call("eth_getLogs", wanted))

    async def _arrived(
        self, auth: TransferAuthorization, receipt: Mapping[str, Any], latest: _Head
    ) -> Arrived | None:
        """The payment in a receipt: its AuthorizationUsed, and right behind it its own Transfer."""
        index = _paired_log(receipt["logs"], auth, self.option)
        if int(receipt["status"], 16) != 1 or index is None:
            return None
        number = int(receipt["blockNumber"], 16)
        final = await self._block("finalized")
        return Arrived(
            tx=receipt["transactionHash"],
            base_units=auth.value,
            log_index=index,
            confirmations=latest.number - number + 1,
            is_final=number <= final.number,
        )

    async def _receipt(self, tx: str) -> Mapping[str, Any] | None:
        """None where there is none of a block that is in the chain: a cache, or a fork, may show another."""
        receipt = await self._rpc.call("eth_getTransactionReceipt", tx)
        if receipt is None or receipt.get("blockNumber") is None:
            return None
        block = await self._rpc.call("eth_getBlockByNumber", receipt["blockNumber"], False)
        return dict(receipt) if block is not None and block["hash"] == receipt["blockHash"] else None

    async def _is_used(self, auth: TransferAuthorization, block: str) -> bool:
        data = call_data("authorizationState(address,bytes32)", auth.payer.text, auth.nonce)
        call = {"to": self.option.asset, "data": f"0x{data.hex()}"}
        return int(await self._rpc.call("eth_call", call, block), 16) != 0

    async def _block(self, tag: str) -> _Head:
        block = await self._rpc.call("eth_getBlockByNumber", tag, False)
        if block is None:
            raise RpcUnavailable("no such block")
        return _Head(int(block["number"], 16), int(block["timestamp"], 16))


def authorization_of(payment: Payment) -> TransferAuthorization:
    """The EVM half of a payment."""
    assert isinstance(payment.authorization, TransferAuthorization)
    return payment.authorization


def inner_signature(signature: bytes) -> bytes:
    """What an ERC-6492 wrapping holds, for the token knows no wrappings; any other signature as it is."""
    try:
        wrapped = erc6492_of(signature)
    except ValueError:
        return signature
    return signature if wrapped is None else wrapped.signature


def transfer_call(payment: Payment) -> bytes:
    """``transferWithAuthorization``: split into v, r, s for a key's signature, whole for any other."""
    auth = authorization_of(payment)
    words = (auth.payer.text, auth.to, auth.value, auth.valid_after, auth.valid_before, auth.nonce)
    arguments = "address,address,uint256,uint256,uint256,bytes32"
    signature = inner_signature(auth.signature)
    if len(signature) != 65 or signature[64] not in (0, 1, 27, 28):
        return call_data(f"transferWithAuthorization({arguments},bytes)", *words, tail=signature)
    v = signature[64] if signature[64] >= 27 else signature[64] + 27
    split = f"transferWithAuthorization({arguments},uint8,bytes32,bytes32)"
    return call_data(split, *words, v, signature[:32], signature[32:64])


def _paired_log(
    logs: Sequence[Mapping[str, Any]], auth: TransferAuthorization, option: PaymentOption
) -> int | None:
    """The index of this authorisation's log, if the very next log is its transfer to whom it is for.

    The token emits the two back to back. Anything looser would take another payment's transfer, in the same
    transaction, for this one's.
    """
    moved = [_TRANSFER, _topic(auth.payer.text), _topic(auth.to)]
    by_index = {int(log["logIndex"], 16): log for log in logs if _is_of(option, log)}
    for index, log in by_index.items():
        follower = by_index.get(index + 1)
        if follower is None or not _is_use(log, auth) or _topics(follower) != moved:
            continue
        if int(follower["data"], 16) == auth.value:
            return index
    return None


def _has_log(logs: Sequence[Mapping[str, Any]], auth: TransferAuthorization, option: PaymentOption) -> bool:
    """Whether these are the logs of the transaction that used this authorisation."""
    return any(_is_of(option, log) and _is_use(log, auth) for log in logs)


def _is_of(option: PaymentOption, log: Mapping[str, Any]) -> bool:
    return bool(log["address"].lower() == option.asset.lower())


def _is_use(log: Mapping[str, Any], auth: TransferAuthorization) -> bool:
    return _topics(log) == [_USED, _topic(auth.payer.text), f"0x{auth.nonce.hex()}"]


def _topics(log: Mapping[str, Any]) -> list[str]:
    return [str(topic).lower() for topic in log["topics"]]


def _topic(address: str) -> str:
    return f"0x{word(address.lower()).hex()}"


_REASONS = {
    "balance": ("insufficient_funds", "The payer has too little USDC for this payment."),
    "is used": ("authorization_used", "This authorisation was used or cancelled before."),
    "expired": ("expired", "The payment has expired."),
    "not yet valid": ("not_yet_valid", "The payment is not valid yet."),
    "signature": ("invalid_signature", "The payment's signature does not match its payer."),
}

_NOT_DEPLOYED = (
    "The paying wallet is not deployed yet, and the token can ask only a contract that is there: deploy it, "
    "for example with its first transaction, and pay again."
)


def _refusal(revert: str) -> PaymentRefused:
    """The token's own words, translated; unknown ones are not repeated to a stranger."""
    for word_in_revert, (reason, message) in _REASONS.items():
        if word_in_revert in revert.lower():
            return PaymentRefused(reason, message)
    return PaymentRefused("simulation_failed", "The token contract refuses this payment.")
