"""A real EVM chain for tests: anvil with chain id 8453 and a token at USDC's address."""

import json
import re
import secrets
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from eth_abi.abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount

NODE = Path(__file__).parent / "node"
CONTRACTS: dict[str, Any] = json.loads((Path(__file__).parent / "contracts/artifact.json").read_text())[
    "contracts"
]
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
DIEM = "0xF4d97F2da56e8c3098f3a8D538DB630A2606a024"
CHAIN_ID = 8453
RICH = Account.from_key("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""The first of anvil's well-known development accounts: it has ether."""


class Anvil:
    """One chain, spoken to over JSON-RPC."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(timeout=30)

    def rpc(self, method: str, *params: object) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = self._client.post(self.url, json=body).json()
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        self._client.close()

    def send(self, to: str | None, data: str, sender: str = RICH.address) -> dict[str, Any]:
        """A transaction from an unlocked account, mined at once; its receipt."""
        call = {"from": sender, "data": data, "gas": hex(3_000_000)} | ({"to": to} if to else {})
        receipt = self.receipt(self.rpc("eth_sendTransaction", call))
        assert receipt["status"] == "0x1"
        return receipt

    def receipt(self, tx: str) -> dict[str, Any]:
        """A block is made at once, but a moment after the answer to who sent the transaction."""
        found: dict[str, Any] = {}
        while not found:
            found = self.rpc("eth_getTransactionReceipt", tx) or {}
        return found

    def deploy(self, name: str, *types_and_values: Any) -> str:
        """Put a contract on the chain; ``types_and_values`` are its constructor's types, then the values."""
        half = len(types_and_values) // 2
        arguments = encode(types_and_values[:half], types_and_values[half:]).hex()
        receipt = self.send(None, CONTRACTS[name]["creation"] + arguments)
        return str(receipt["contractAddress"])

    def put_code(self, address: str, name: str) -> None:
        self.rpc("anvil_setCode", address, CONTRACTS[name]["runtime"])

    def fund(self, wallet: str, usdc: int, wei: int = 0) -> None:
        self.send(USDC, call_data("Token", "mint(address,uint256)", wallet, usdc))
        if wei:
            self.rpc("anvil_setBalance", wallet, hex(wei))

    def usdc(self, wallet: str) -> int:
        data = call_data("Token", "balanceOf(address)", wallet)
        return int(self.rpc("eth_call", {"to": USDC, "data": data}, "latest"), 16)

    def mine(self, blocks: int = 1, seconds: int = 0) -> None:
        if seconds:
            self.rpc("evm_increaseTime", hex(seconds))
        self.rpc("anvil_mine", hex(blocks))

    def set_automine(self, on: bool) -> None:
        self.rpc("evm_setAutomine", on)

    def now(self) -> int:
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def transactions_of(self, address: str) -> int:
        return int(self.rpc("eth_getTransactionCount", address, "latest"), 16)


def call_data(contract: str, signature: str, *values: Any) -> str:
    types = [t for t in re.findall(r"\((.*)\)", signature)[0].split(",") if t]
    return f"0x{CONTRACTS[contract]['selectors'][signature]}{encode(types, values).hex()}"


@contextmanager
def run_anvil(*options: str) -> Iterator[Anvil]:
    """A fresh chain on a free port. Blocks become final after two more."""
    command = [
        str(_binary()), "--chain-id", str(CHAIN_ID), "--port", "0", "--slots-in-an-epoch", "1", *options
    ]  # fmt: skip
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        ThreadPoolExecutor(1) as reader,
    ):
        try:
            assert process.stdout is not None
            lines = (re.search(r"Listening on (\S+)", line) for line in process.stdout)
            url = next(f"http://{found[1]}" for found in lines if found)
            # it logs each call: a pipe that nobody reads fills up, and then the chain stands still
            reader.submit(deque, process.stdout, 0)
            chain = Anvil(url)
            chain.put_code(USDC, "Token")
            chain.put_code(DIEM, "Staking")
            yield chain
            chain.close()
        finally:
            process.kill()


def _binary() -> Path:
    return next(NODE.glob("node_modules/@foundry-rs/anvil-*/bin/anvil"))


def authorize(
    payer: LocalAccount,
    to: str,
    value: int,
    *,
    valid_for_s: int = 300,
    now: int | None = None,
    nonce: bytes | None = None,
    asset: str = USDC,
    chain_id: int = CHAIN_ID,
    valid_after: int | None = None,
    holder: str | None = None,
) -> dict[str, Any]:
    """An x402 ``exact`` payload signed by eth-account; ``holder`` is a contract that the signer owns."""
    now = int(time.time()) if now is None else now
    message: dict[str, Any] = {
        "from": holder or payer.address,
        "to": to,
        "value": value,
        "validAfter": now - 600 if valid_after is None else valid_after,
        "validBefore": now + valid_for_s,
        "nonce": nonce or secrets.token_bytes(32),
    }
    types = {
        "TransferWithAuthorization": [
            {"name": "from", "type": "address"},
            {"name": "to", "type": "address"},
            {"name": "value", "type": "uint256"},
            {"name": "validAfter", "type": "uint256"},
            {"name": "validBefore", "type": "uint256"},
            {"name": "nonce", "type": "bytes32"},
        ]
    }
    domain = {"name": "USD Coin", "version": "2", "chainId": chain_id, "verifyingContract": asset}
    signature = payer.sign_typed_data(domain, types, message).signature
    spelled = {key: item if isinstance(item, str) else str(item) for key, item in message.items()}
    return {
        "signature": f"0x{bytes(signature).hex()}",
        "authorization": spelled | {"nonce": f"0x{message['nonce'].hex()}"},
    }


def erc6492(factory: str, deployment: str, signature: bytes) -> bytes:
    """A signature of a wallet that is not deployed yet."""
    arguments = [factory, bytes.fromhex(deployment[2:]), signature]
    return encode(["address", "bytes", "bytes"], arguments) + bytes.fromhex("6492" * 16)


def transfer_call(payload: dict[str, Any]) -> str:
    """The call with which anybody can carry out an authorisation."""
    auth = payload["authorization"]
    signature = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
    numbers: Sequence[int] = [int(auth[key]) for key in ("value", "validAfter", "validBefore")]
    return call_data(
        "Token",
        signature,
        auth["from"],
        auth["to"],
        *numbers,
        bytes.fromhex(auth["nonce"][2:]),
        bytes.fromhex(payload["signature"].removeprefix("0x")),
    )
