"""USDC on Solana: checking transactions before they are sent, and finding them afterwards."""

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from vectoll.adapters.chains.rpc import JsonRpc, reads_answers
from vectoll.adapters.chains.solana import is_signature
from vectoll.domain.payments import (
    REVERTED,
    Arrived,
    Intent,
    IntentState,
    Missing,
    Never,
    Payment,
    PaymentOption,
    PaymentRefused,
    Sighting,
)
from vectoll.domain.payments_solana import SolanaTransfer, parse_transfer
from vectoll.domain.wallets import base58_encode
from vectoll.ports.wallets import RpcUnavailable

_BLOCKHASH_LIFE = 151
"""Blocks after which a blockhash, and every transaction that carries it, has lapsed."""
_PAGE = 100
_PAGES = 10
"""How many pages of a payer's transactions are searched for one whose signature is not known."""
_CLOCK_SKEW_S = 120
"""How far a block's time may be behind ours."""


@dataclass(frozen=True, slots=True)
class _Final:
    """The newest final block."""

    height: int
    slot: int


class Spl:
    """One mint on one cluster, read through one RPC endpoint. Blocks are counted by height."""

    confirmations = 1
    """Confirmed, which is two thirds of the stake; credited ones are looked at again until they are final."""

    def __init__(self, rpc: JsonRpc, option: PaymentOption) -> None:
        self._rpc = rpc
        self.option = option

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's key signed the transaction."""
        transfer = transfer_of(payment)
        return is_signature(transfer.payer.raw, transfer.message, transfer.signatures[1])

    @reads_answers
    async def verify(self, payment: Payment) -> int:
        """Simulate the transaction. Raises PaymentRefused."""
        transfer = transfer_of(payment)
        height = await self._height("confirmed")
        unsigned = transfer.signed_by_fee_payer(bytes(64))
        options = {"encoding": "base64", "sigVerify": False, "commitment": "confirmed"}
        result = await self._rpc.call("simulateTransaction", base64.b64encode(unsigned).decode(), options)
        error = _value(result).get("err")
        if error is not None:
            raise _refusal(error)
        return height

    @reads_answers
    async def balance(self, payment: Payment) -> int:
        """What the payer's token account has."""
        source = base58_encode(transfer_of(payment).source)
        result = await self._rpc.call("getTokenAccountBalance", source, {"commitment": "confirmed"})
        return int(_value(result)["amount"])

    @reads_answers
    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """By the signature, which is known before the transaction is sent, or by searching the payer's latest."""
        transfer = transfer_of(payment)
        final = await self._final()  # asked first: what is absent after it stays absent
        if intent.tx is None:
            signature = await self._find(final.slot, intent, transfer)
        else:
            signature = intent.tx
        status = await self._status(signature, final.slot) if signature is not None else None
        if signature is None or status is None:
            if final.height <= intent.since_block + _BLOCKHASH_LIFE:
                return Missing()
            if signature is not None:
                await self._check_absent(signature, final.slot, intent)
            return Never("expired", by_absence=True)
        is_final = status.get("confirmationStatus") == "finalized"
        if status.get("err") is not None:
            return Never(REVERTED) if is_final else Missing(REVERTED)
        if status.get("confirmationStatus") not in ("confirmed", "finalized"):
            return Missing()
        return await self._arrived(transfer, signature, is_final)

    async def _arrived(self, transfer: SolanaTransfer, signature: str, is_final: bool) -> Sighting:
        """Never by the status alone: by what the receiving token account gained."""
        found = await self._transaction(signature, "json")
        if found is None:
            return Missing()
        gained = _gained(found, transfer)
        if found["meta"]["err"] is not None or gained != transfer.value:
            return Never("amount_mismatch") if is_final else Missing("amount_mismatch")
        return Arrived(signature, gained, log_index=0, confirmations=1, is_final=is_final)

    async def _find(self, slot: int, intent: Intent, transfer: SolanaTransfer) -> str | None:
        """The signature of the very message, when somebody else was to pay its fee; None where there is none."""
        async for signature in self._signatures(slot, intent):
            if await self._is_signature_of(signature, transfer.message):
                return signature
        return None

    async def _check_absent(self, signature: str, slot: int, intent: Intent) -> None:
        """Ask otherwise for what has no status. Raises RpcUnavailable when the node contradicts itself.

        Before a credit is taken back the payer's history is read, too; that takes more calls than a stranger's
        payment that never came is worth.
        """
        is_there = await self._transaction(signature, "json") is not None
        if not is_there and intent.state is IntentState.CREDITED:
            is_there = signature in [each async for each in self._signatures(slot, intent)]
        if is_there:
            raise RpcUnavailable("the node has the transaction, but not its status")

    async def _signatures(self, slot: int, intent: Intent) -> AsyncIterator[str]:
        """Transactions that name the payer, newest first, back to when the payment came.

        By a node that has seen ``slot``. Raises RpcUnavailable when there are too many to look at: anybody can name
        the payer's address in transactions of their own, which must not hide this one.
        """
        since = intent.created_at.timestamp()
        options: dict[str, Any] = {"limit": _PAGE, "commitment": "confirmed", "minContextSlot": slot}
        for _ in range(_PAGES):
            page = await self._rpc.call("getSignaturesForAddress", intent.payer, options)
            for entry in page:
                if (entry.get("blockTime") or since) < since - _CLOCK_SKEW_S:
                    return
                yield str(entry["signature"])
            if len(page) < _PAGE:
                return
            options["before"] = page[-1]["signature"]
        raise RpcUnavailable("too many transactions name the payer")

    async def _is_signature_of(self, signature: str, message: bytes) -> bool:
        found = await self._transaction(signature, "base64")
        if found is None:
            raise RpcUnavailable("the node lists a transaction that it does not have")
        return _is_message(found["transaction"][0], message)

    async def _transaction(self, signature: str, encoding: str) -> Mapping[str, Any] | None:
        options = {"encoding": encoding, "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
        found = await self._rpc.call("getTransaction", signature, options)
        return None if found is None else dict(found)

    async def _status(self, signature: str, slot: int) -> Mapping[str, Any] | None:
        """None when a node that has seen ``slot`` does not know it. Raises RpcUnavailable when it lags behind."""
        options = {"searchTransactionHistory": True}
        result = await self._rpc.call("getSignatureStatuses", [signature], options)
        status = _list_value(result)[0]
        if status is not None:
            return dict(status)
        if result["context"]["slot"] < slot:
            raise RpcUnavailable("the node lags behind")
        return None

    async def _final(self) -> "_Final":
        info = await self._rpc.call("getEpochInfo", {"commitment": "finalized"})
        return _Final(int(info["blockHeight"]), int(info["absoluteSlot"]))

    async def _height(self, commitment: str) -> int:
        return int(await self._rpc.call("getBlockHeight", {"commitment": commitment}))


def transfer_of(payment: Payment) -> SolanaTransfer:
    """The Solana half of a payment."""
    assert isinstance(payment.authorization, SolanaTransfer)
    return payment.authorization


def _gained(found: Mapping[str, Any], transfer: SolanaTransfer) -> int:
    """By how much the receiving token account's balance grew."""
    index = found["transaction"]["message"]["accountKeys"].index(base58_encode(transfer.destination))

    def balance(when: str) -> int:
        entries = found["meta"][when] or ()
        amounts = [e["uiTokenAmount"]["amount"] for e in entries if e["accountIndex"] == index]
        return int(amounts[0]) if amounts else 0

    return balance("postTokenBalances") - balance("preTokenBalances")


def _is_message(transaction: str, message: bytes) -> bool:
    try:
        return parse_transfer(binascii.a2b_base64(transaction)).message == message
    except ValueError:
        return False


def _value(result: Any) -> Mapping[str, Any]:
    if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
        raise RpcUnavailable("the answer has no value")
    return dict(result["value"])


def _list_value(result: Any) -> list[Any]:
    if not isinstance(result, dict) or not isinstance(result.get("value"), list) or not result["value"]:
        raise RpcUnavailable("the answer has no value")
    return list(result["value"])


_OURS = ("AccountNotFound", "InsufficientFundsForFee", "InsufficientFundsForRent")
"""Simulation errors about the fee payer's own lamports."""


def _refusal(error: object) -> PaymentRefused | RpcUnavailable:
    text = str(error)
    if any(name in text for name in _OURS):
        return RpcUnavailable("the fee payer cannot pay")
    if "BlockhashNotFound" in text:
        return PaymentRefused("expired", "The transaction's blockhash has expired: build a fresh one.")
    if "'Custom': 1}" in text:
        return PaymentRefused("insufficient_funds", "The payer has too little USDC for this payment.")
    return PaymentRefused("simulation_failed", "The chain refuses this transaction.")
