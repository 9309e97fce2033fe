"""The one kind of Solana transaction that is accepted as a payment, read byte by byte.

An x402 ``exact`` payment is a transaction that the client has signed and the server completes with the fee payer's
signature. Whatever else it contains would run at the server's expense and under its signature, so every byte is
accounted for: a compute limit, a compute price, one ``TransferChecked``, then only memos and Lighthouse assertions.
Lookup tables are refused (they hide accounts), and so are durable nonces (such a transaction never lapses).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vectoll.domain.wallets import Family, WalletAddress, base58_decode, base58_encode

MAX_TRANSACTION_BYTES = 1232
MAX_PRIORITY_FEE_LAMPORTS = 100_000
"""What a client may make the fee payer spend on priority: compute limit times compute price."""

COMPUTE_BUDGET = base58_decode("ComputeBudget111111111111111111111111111111")
TOKEN_PROGRAM = base58_decode("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
MEMO_PROGRAM = base58_decode("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = base58_decode("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")


@dataclass(frozen=True, slots=True)
class SolanaTransfer:
    """A payment's transaction, taken apart."""

    payer: WalletAddress
    value: int
    fee_payer: bytes
    mint: bytes
    source: bytes
    """The token account that pays."""
    destination: bytes
    """The token account that receives."""
    decimals: int
    blockhash: str
    message: bytes
    """What is signed."""
    signatures: tuple[bytes, ...]
    """In the order of the signers; the fee payer's is the first, all zero until it signs."""

    def signed_by_fee_payer(self, signature: bytes) -> bytes:
        """The complete transaction, ready to be sent."""
        rest = self.signatures[1:]
        return bytes([len(self.signatures)]) + signature + b"".join(rest) + self.message


@dataclass(frozen=True, slots=True)
class _Instruction:
    program: bytes
    accounts: tuple[int, ...]
    data: bytes


def parse_transfer(transaction: bytes) -> SolanaTransfer:
    """Raises ValueError, a short reason, for anything but one plain token transfer of a single payer."""
    if len(transaction) > MAX_TRANSACTION_BYTES:
        raise ValueError("too large")
    reader = _Reader(transaction)
    signatures = tuple(reader.take(64) for _ in range(reader.count()))
    message = transaction[reader.at :]
    signers = _read_header(reader)
    keys = [reader.take(32) for _ in range(reader.count())]
    if signers != 2 or len(signatures) != 2 or len(keys) < 2 or len(set(keys)) != len(keys):
        raise ValueError("exactly the fee payer and the payer must sign")
    blockhash = base58_encode(reader.take(32))
    instructions = [_read_instruction(reader, keys) for _ in range(reader.count())]
    if message[0] & 0x80 and reader.count():
        raise ValueError("address lookup tables are not accepted")
    if reader.at != len(transaction):
        raise ValueError("bytes are left over")
    transfer = _check_instructions(instructions)
    source, mint, destination, authority = transfer.accounts
    if authority != 1:
        raise ValueError("the transfer's authority is not the payer who signs")
    return SolanaTransfer(
        payer=WalletAddress(Family.SOLANA, base58_encode(keys[1])),
        value=int.from_bytes(transfer.data[1:9], "little"),
        fee_payer=keys[0],
        mint=keys[mint],
        source=keys[source],
        destination=keys[destination],
        decimals=transfer.data[9],
        blockhash=blockhash,
        message=message,
        signatures=signatures,
    )


def _read_header(reader: "_Reader") -> int:
    """The number of required signers, of a legacy or version 0 message."""
    first = reader.take(1)[0]
    if first & 0x80:
        if first != 0x80:
            raise ValueError("unknown message version")
        first = reader.take(1)[0]
    reader.take(2)  # how many accounts are read-only; the chain holds the transaction to it
    return first


def _read_instruction(reader: "_Reader", keys: Sequence[bytes]) -> _Instruction:
    program = reader.take(1)[0]
    accounts = tuple(reader.take(reader.count()))
    data = reader.take(reader.count())
    if program >= len(keys) or any(account >= len(keys) for account in accounts):
        raise ValueError("an account index is out of range")
    if 0 in accounts:
        raise ValueError("the fee payer takes part in an instruction")
    return _Instruction(keys[program], accounts, data)


def _check_instructions(instructions: Sequence[_Instruction]) -> _Instruction:
    """The transfer, after making sure of everything around it."""
    if not 3 <= len(instructions) <= 7:
        raise ValueError("unexpected number of instructions")
    limit, price, transfer, *rest = instructions
    limit_units = _compute_budget(limit, kind=2, size=4)
    micro_lamports = _compute_budget(price, kind=3, size=8)
    if limit_units * micro_lamports > MAX_PRIORITY_FEE_LAMPORTS * 1_000_000:
        raise ValueError("the compute price is too high")
    if (
        transfer.program != TOKEN_PROGRAM
        or len(transfer.data) != 10
        or transfer.data[0] != 12
        or len(transfer.accounts) != 4
    ):
        raise ValueError("the third instruction is not a plain TransferChecked")
    if any(instruction.program not in (MEMO_PROGRAM, LIGHTHOUSE) for instruction in rest):
        raise ValueError("unexpected instruction")
    return transfer


def _compute_budget(instruction: _Instruction, kind: int, size: int) -> int:
    data = instruction.data
    if instruction.program != COMPUTE_BUDGET or len(data) != size + 1 or data[0] != kind:
        raise ValueError("the first two instructions must set compute limit and price")
    return int.from_bytes(data[1:], "little")


class _Reader:
    """Takes bytes from the front; raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        part = self._data[self.at : self.at + size]
        if len(part) != size:
            raise ValueError("truncated")
        self.at += size
        return part

    def count(self) -> int:
        """Solana's compact-u16, in its shortest form only."""
        value = 0
        for position in range(3):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << (7 * position)
            if not byte & 0x80:
                if position and not byte:
                    raise ValueError("a count is not in its shortest form")
                if value > 0xFFFF:
                    raise ValueError("a count is too large")
                return value
        raise ValueError("a count is too long")
