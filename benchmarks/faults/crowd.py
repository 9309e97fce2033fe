"""The crowd that every run has, with its accounts, and what a server must be told about it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.callers import (
    Buyer,
    Caller,
    Crowd,
    Payer,
    bulk,
    customer,
    leaver,
    token_bearer,
    vandal,
    wallet,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_account import Account
from tests.chains.anvil import Anvil
from tests.live import Vectoll
from tests.wallets import URL, Wallet

GAS = Account.from_key(bytes([9]) * 32)
PAY_TO = "0x" + "5e" * 20
RICH_USD, POOR_USD = "100", "0.00003"
TOKEN_ACCOUNT = "bearer-of-tokens"


@dataclass(frozen=True)
class World:
    """What is outside the servers: a chain, and whoever signs tokens."""

    chain: Anvil
    issuer: Ed25519PrivateKey
    issuer_file: Path

    def settings(self) -> Mapping[str, object]:
        """For every server of the run. Nothing limits how often its callers may ask, or fail."""
        return {
            "public_url": URL,
            "x402__enabled": True,
            "x402__reconcile_interval_s": 0.5,
            "x402__settle_timeout_s": 10,
            "x402__requests_in_flight": 64,
            "x402__base__rpc_url": self.chain.url,
            "x402__base__pay_to": PAY_TO,
            "x402__base__settlement_key": GAS.key.hex(),
            "jwt__public_key_files": json.dumps([str(self.issuer_file)]),
            "limits__requests_per_minute": 0,
            "limits__tokens_per_minute": 0,
            "limits__failures_before_block": 0,
            "log__level": "warning",
        }


def make_world(chain: Anvil, home: Path) -> World:
    """A key for the issuer, and ether for settlements."""
    chain.rpc("anvil_setBalance", GAS.address, hex(10**21))
    issuer = Ed25519PrivateKey.generate()
    file = home / "issuer.pem"
    file.write_bytes(issuer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return World(chain, issuer, file)


def buyer(vectoll: Vectoll, usd: str) -> Buyer:
    """A new account with credit and a key."""
    made = vectoll.json("keys", "create", "--name", "caller", "--credit-usd", usd)
    return Buyer(made["account"], {"authorization": f"Bearer {made['key']}"})


def gather(vectoll: Vectoll, world: World, pause_s: float) -> tuple[Crowd, Payer]:
    """Everybody, with credit where they need some. Two of the customers share an account that is soon empty."""
    rich, poor = buyer(vectoll, RICH_USD), buyer(vectoll, POOR_USD)
    signer = Wallet()
    for account in (signer.id, TOKEN_ACCOUNT):
        vectoll.run("credit", "add", "--account", account, "--usd", RICH_USD, "--create")
    payer = Payer(world.chain, PAY_TO)
    callers: dict[str, Caller] = {
        "customer 1": customer(rich),
        "customer 2": customer(rich),
        "customer 3": customer(buyer(vectoll, RICH_USD), most_texts=32),
        "poor 1": customer(poor),
        "poor 2": customer(poor, most_texts=16),
        "bulk": bulk(buyer(vectoll, RICH_USD)),
        "leaver": leaver(rich),
        "vandal": vandal(rich),
        "wallet": wallet(signer),
        "bearer": token_bearer(TOKEN_ACCOUNT, world.issuer),
        "payer": payer,
    }
    return Crowd(callers, pause_s), payer
