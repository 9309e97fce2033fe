"""A real Solana runtime for tests: litesvm behind the JSON-RPC methods that clients and rails call.

Mainnet's USDC mint is at its real address. The runtime lives in the server's one thread; tests reach it over RPC,
with a few methods of their own (``test_…``).
"""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
from solders.account import Account
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.token.state import Mint, TokenAccount, TokenAccountState
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, SimulatedTransactionInfo

MINT = Pubkey.from_string("EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v")
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
RENT = 10_000_000


@dataclass
class Seen:
    """A transaction that was taken into a block."""

    transaction: VersionedTransaction
    error: Any
    before: dict[str, int]
    after: dict[str, int]
    height: int
    time: int


class Chain:
    """The runtime, and what a node remembers around it."""

    def __init__(self) -> None:
        self.svm = LiteSVM()
        self.height = 1000
        self.final = 1000
        self.seen: dict[str, Seen] = {}
        self.held: list[VersionedTransaction] | None = None
        self.swallow = False
        self.lag = 0
        self.lies: set[str] = set()
        authority = Keypair().pubkey()
        mint = Mint(authority, 10**15, 6, is_initialized=True)
        self.svm.set_account(MINT, Account(RENT, bytes(mint), TOKEN))

    # What clients and rails call

    def getLatestBlockhash(self, *_: Any) -> Any:  # noqa: N802
        value = {"blockhash": str(self.svm.latest_blockhash()), "lastValidBlockHeight": self.height + 150}
        return self._value(value)

    def getBlockHeight(self, options: Any = None) -> int:  # noqa: N802
        return self.final if (options or {}).get("commitment") == "finalized" else self.height

    def getEpochInfo(self, options: Any = None) -> Any:  # noqa: N802
        height = self.getBlockHeight(options)
        return {
            "blockHeight": height,
            "absoluteSlot": height,
            "epoch": 0,
            "slotIndex": 0,
            "slotsInEpoch": 432_000,
        }

    def getBalance(self, key: str, *_: Any) -> Any:  # noqa: N802
        return self._value(self.svm.get_balance(Pubkey.from_string(key)))

    def getAccountInfo(self, key: str, *_: Any) -> Any:  # noqa: N802
        account = self.svm.get_account(Pubkey.from_string(key))
        if account is None:
            return self._value(None)
        data = [base64.b64encode(account.data).decode(), "base64"]
        value = {"data": data, "executable": account.executable, "lamports": account.lamports}
        return self._value(value | {"owner": str(account.owner), "rentEpoch": 0, "space": len(account.data)})

    def getTokenAccountBalance(self, key: str, *_: Any) -> Any:  # noqa: N802
        return self._value({"amount": str(self.balance(key)), "decimals": 6})

    def simulateTransaction(self, wire: str, *_: Any) -> Any:  # noqa: N802
        self.svm.with_sigverify(False)
        outcome = self.svm.simulate_transaction(_decode(wire))
        self.svm.with_sigverify(True)
        failed = not isinstance(outcome, SimulatedTransactionInfo)
        return self._value({"err": _error(outcome) if failed else None, "logs": []})

    def sendTransaction(self, wire: str, *_: Any) -> str:  # noqa: N802
        transaction = _decode(wire)
        signature = str(transaction.signatures[0])
        if self.held is not None:
            self.held.append(transaction)
        elif signature not in self.seen:
            self._execute(transaction)
        if self.swallow:
            raise ConnectionAbortedError
        return signature

    def getSignatureStatuses(self, signatures: list[str], *_: Any) -> Any:  # noqa: N802
        if self.lag:
            lagging = {"context": {"slot": self.height - self.lag, "apiVersion": "2.0.0"}}
            return lagging | {"value": [None for _ in signatures]}
        return self._value([self._status(signature) for signature in signatures])

    def getTransaction(self, signature: str, options: Any) -> Any:  # noqa: N802
        seen = self.seen.get(signature)
        if seen is None:
            return None
        keys = [str(key) for key in seen.transaction.message.account_keys]
        meta = {
            "err": seen.error,
            "preTokenBalances": _token_balances(keys, seen.before),
            "postTokenBalances": _token_balances(keys, seen.after),
        }
        if options.get("encoding") == "base64":
            encoded: Any = [base64.b64encode(bytes(seen.transaction)).decode(), "base64"]
        else:
            encoded = {
                "message": {"accountKeys": keys},
                "signatures": [str(s) for s in seen.transaction.signatures],
            }
        return {"slot": seen.height, "meta": meta, "transaction": encoded}

    def getSignaturesForAddress(self, key: str, options: Any = None) -> Any:  # noqa: N802
        options = options or {}
        assert options.get("minContextSlot", 0) <= self.height - self.lag, "the node lags behind"
        entries = [
            {"signature": signature, "err": seen.error, "slot": seen.height, "blockTime": seen.time}
            for signature, seen in reversed(self.seen.items())
            if key in map(str, seen.transaction.message.account_keys)
        ]
        signatures = [entry["signature"] for entry in entries]
        start = signatures.index(options["before"]) + 1 if options.get("before") else 0
        return entries[start : start + options.get("limit", 1000)]

    # What tests call

    def test_fund(self, owner: str, lamports: int, usdc: int) -> str:
        key = Pubkey.from_string(owner)
        if lamports:
            self.svm.airdrop(key, lamports)
        state = TokenAccount(MINT, key, usdc, None, TokenAccountState.Initialized, None, 0, None)
        address = get_associated_token_address(key, MINT)
        self.svm.set_account(address, Account(RENT, bytes(state), TOKEN))
        return str(address)

    def test_advance(self, blocks: int, final: bool = True) -> None:
        self.height += blocks
        self.final = self.height if final else self.final
        self.svm.expire_blockhash()

    def test_hold(self, on: bool) -> None:
        """While on, transactions are taken and not executed; then they are executed."""
        held, self.held = self.held or [], [] if on else None
        if not on:
            for transaction in held:
                self._execute(transaction)

    def test_drop(self) -> None:
        self.held = None

    def test_swallow(self, on: bool) -> None:
        """While on, transactions are executed and the sender is never told."""
        self.swallow = on

    def test_lag(self, slots: int) -> None:
        """The node that is asked about signatures is this far behind, and has seen nothing since."""
        self.lag = slots

    def test_crowd(self, key: str, count: int) -> None:
        """That many later transactions name an account."""
        template = next(iter(self.seen.values()))
        for n in range(count):
            message = MessageV0.try_compile(
                Pubkey.from_string(key), [Instruction(MEMO, n.to_bytes(4, "big"), [])], [], Hash.default()
            )
            crowd = VersionedTransaction.populate(message, [Signature(n.to_bytes(64, "big"))])
            self.seen[str(crowd.signatures[0])] = replace(template, transaction=crowd, error=None)

    def test_lie(self, signature: str, in_meta: bool, account: str | None) -> None:
        """The node says that a failed transaction moved $10: in its status, its meta, and one account's balance."""
        self.lies.add(signature)
        seen = self.seen[signature]
        after = dict(seen.after)
        if account:
            after[account] = seen.before[account] + 10_000_000
        self.seen[signature] = replace(seen, error=None if in_meta else seen.error, after=after)

    def test_forget(self, signature: str) -> None:
        """A fork is dropped: its transaction never happened."""
        self.seen.pop(signature)

    def balance(self, key: str) -> int:
        account = self.svm.get_account(Pubkey.from_string(key))
        is_token_account = account is not None and account.owner == TOKEN and len(account.data) == 165
        return TokenAccount.from_bytes(account.data).amount if account and is_token_account else 0

    def _execute(self, transaction: VersionedTransaction) -> None:
        keys = [str(key) for key in transaction.message.account_keys]
        before = {key: self.balance(key) for key in keys}
        outcome = self.svm.send_transaction(transaction)
        error = _error(outcome) if isinstance(outcome, FailedTransactionMetadata) else None
        after = {key: self.balance(key) for key in keys}
        self.height += 1
        if error != "BlockhashNotFound" and error != "AlreadyProcessed":
            self.seen[str(transaction.signatures[0])] = Seen(
                transaction, error, before, after, self.height, int(time.time())
            )

    def _status(self, signature: str) -> Any:
        seen = self.seen.get(signature)
        if seen is None:
            return None
        confirmation = "finalized" if seen.height <= self.final else "confirmed"
        return {
            "slot": seen.height,
            "confirmations": None,
            "err": None if signature in self.lies else seen.error,
            "confirmationStatus": confirmation,
        }

    def _value(self, value: Any) -> Any:
        return {"context": {"slot": self.height, "apiVersion": "2.0.0"}, "value": value}


def _decode(wire: str) -> VersionedTransaction:
    return VersionedTransaction.from_bytes(base64.b64decode(wire))


def _error(outcome: Any) -> Any:
    """As a node spells it: ``{"InstructionError": [2, {"Custom": 1}]}`` or a bare name."""
    text = str(outcome.err() if callable(getattr(outcome, "err", None)) else outcome)
    if custom := re.search(r"Custom\((\d+)\)", text):
        return {"InstructionError": [2, {"Custom": int(custom[1])}]}
    for name in ("BlockhashNotFound", "AlreadyProcessed", "SignatureFailure"):
        if name in text:
            return name
    return {"Unknown": text}


def _token_balances(keys: list[str], balances: dict[str, int]) -> list[Any]:
    return [
        {
            "accountIndex": index,
            "mint": str(MINT),
            "uiTokenAmount": {"amount": str(balances[key]), "decimals": 6},
        }
        for index, key in enumerate(keys)
        if balances.get(key)
    ]


class Svm:
    """The tests' end of the wire."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(timeout=30)

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._client.post(self.url, json=body).json()
        assert "error" not in answer, answer
        return answer["result"]

    def fund(self, owner: Pubkey, *, usdc: int = 0, lamports: int = 0) -> str:
        return str(self.rpc("test_fund", str(owner), lamports, usdc))

    def usdc(self, owner: Pubkey) -> int:
        address = str(get_associated_token_address(owner, MINT))
        return int(self.rpc("getTokenAccountBalance", address)["value"]["amount"])

    def blockhash(self) -> Hash:
        return Hash.from_string(self.rpc("getLatestBlockhash")["value"]["blockhash"])

    def close(self) -> None:
        self._client.close()


@contextmanager
def run_svm() -> Iterator[Svm]:
    """A fresh runtime on a free port."""
    ready = threading.Event()
    servers: list[HTTPServer] = []

    def serve() -> None:
        chain = Chain()
        servers.append(HTTPServer(("127.0.0.1", 0), _handler(chain)))
        ready.set()
        servers[0].serve_forever(poll_interval=0.01)
        servers[0].server_close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(30)
    svm = Svm(f"http://127.0.0.1:{servers[0].server_address[1]}")
    try:
        yield svm
    finally:
        svm.close()
        servers[0].shutdown()
        thread.join()


def _handler(chain: Chain) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["content-length"])))
            method: Callable[..., Any] | None = getattr(chain, call["method"], None)
            answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call["id"]}
            try:
                if method is None:
                    answer["error"] = {"code": -32601, "message": f"no method {call['method']}"}
                else:
                    answer["result"] = method(*call.get("params") or [])
            except ConnectionAbortedError:
                self.close_connection = True
                return
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence."""

    return Handler


def pay(
    payer: Keypair,
    pay_to: Pubkey,
    fee_payer: Pubkey,
    value: int,
    blockhash: Hash,
    *,
    memo: bytes = b"nonce",
    unit_price: int = 1,
    source: Pubkey | None = None,
    mint: Pubkey = MINT,
    extra: tuple[Instruction, ...] = (),
    first: tuple[Instruction, ...] = (),
) -> str:
    """An x402 ``exact`` transaction as ``@x402/svm`` builds it, signed by the payer, in base64."""
    destination = get_associated_token_address(pay_to, mint)
    accounts = [
        AccountMeta(source or get_associated_token_address(payer.pubkey(), mint), False, True),
        AccountMeta(mint, False, False),
        AccountMeta(destination, False, True),
        AccountMeta(payer.pubkey(), True, False),
    ]
    instructions = [
        *first,
        Instruction(BUDGET, bytes([2]) + (20_000).to_bytes(4, "little"), []),
        Instruction(BUDGET, bytes([3]) + unit_price.to_bytes(8, "little"), []),
        Instruction(TOKEN, bytes([12]) + value.to_bytes(8, "little") + bytes([6]), accounts),
        *([Instruction(MEMO, memo, [])] if memo else []),
        *extra,
    ]
    message = MessageV0.try_compile(fee_payer, instructions, [], blockhash)
    signers = [payer.sign_message(to_bytes_versioned(message))]
    while len(signers) < message.header.num_required_signatures - 1:
        signers.append(Signature.default())
    transaction = VersionedTransaction.populate(message, [Signature.default(), *signers])
    return base64.b64encode(bytes(transaction)).decode()
