"""Wallets for tests of HTTP: sign-in headers, and a rail that has no chain behind it."""

import base64
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from eth_account import Account
from eth_account.messages import encode_defunct

from vectoll.domain.payments import Arrived, Intent, Payment, PaymentOption, Sighting, Submission
from vectoll.ports.payments import Record

URL = "http://testserver"
PAY_TO = "0x" + "5e" * 20
OPTION = PaymentOption("eip155:8453", "0x" + "a1" * 20, PAY_TO, {"name": "USD Coin", "version": "2"})


def encode(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


@dataclass
class Wallet:
    """A key pair that signs in."""

    account: Any = field(default_factory=Account.create)

    @property
    def address(self) -> str:
        return str(self.account.address)

    @property
    def id(self) -> str:
        return self.address.lower()

    def sign_in(self, *, domain: str = "testserver", at: datetime | None = None) -> dict[str, str]:
        """A fresh header."""
        now = at or datetime.now(UTC)
        text = (
            f"{domain} wants you to sign in with your Ethereum account:\n{self.address}\n\nSign in\n\nURI: {URL}\n"
            f"Version: 1\nChain ID: 8453\nNonce: {secrets.token_hex(8)}\nIssued At: {now.isoformat()}\n"
            f"Expiration Time: {(now + timedelta(minutes=5)).isoformat()}"
        )
        signature = bytes(self.account.sign_message(encode_defunct(text=text)).signature).hex()
        payload = {"address": self.address, "message": text, "signature": f"0x{signature}", "chainId": 8453}
        return {"sign-in-with-x": encode(payload)}

    def payment(self, units: int = 5_000_000, **changes: str) -> dict[str, str]:
        """A payment header; ``FakeRail`` takes any signature."""
        authorization = {
            "from": self.address,
            "to": PAY_TO,
            "value": str(units),
            "validAfter": "0",
            "validBefore": str(int(datetime.now(UTC).timestamp()) + 300),
            "nonce": f"0x{secrets.token_hex(32)}",
        } | changes
        payload = {"signature": "0x" + "11" * 65, "authorization": authorization}
        return {"payment-signature": encode({"x402Version": 2, "payload": payload})}


@dataclass
class FakeRail:
    """Everything arrives at once."""

    option: PaymentOption = OPTION
    confirmations: int = 1
    settled: list[Payment] = field(default_factory=list)

    def check_signature(self, payment: Payment) -> bool:
        return True

    async def verify(self, payment: Payment) -> int:
        return 1

    async def balance(self, payment: Payment) -> int:
        return 10**15

    async def settle(self, payment: Payment, record: Record) -> None:
        await record(Submission(f"0x{payment.id[4:]}", b"\x02"))
        self.settled.append(payment)

    async def resend(self, intent: Intent) -> bool:
        return True

    async def funds(self) -> Decimal | None:
        return None

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        return Arrived(intent.tx or "", payment.base_units, 0, 1, is_final=True)

    async def close(self) -> None:
        pass
