"""Settlement by a remote x402 facilitator. It sends; whether money arrived is read from the chain, not from it."""

from collections.abc import Mapping
from typing import Protocol

import aiohttp
import msgspec

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.payments.eip3009 import Eip3009
from vectoll.core.payment_header import render_payment, requirement
from vectoll.domain.payments import Intent, Payment, PaymentOption, Sighting, Submission
from vectoll.ports.payments import Record
from vectoll.ports.wallets import RpcUnavailable


class Token(Protocol):
    """The reading half of a rail."""

    @property
    def option(self) -> PaymentOption:
        """What is asked for."""
        ...

    @property
    def confirmations(self) -> int:
        """How deep a payment must be."""
        ...

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's key signed."""
        ...

    async def verify(self, payment: Payment) -> int:
        """Whether the chain would accept it."""
        ...

    async def balance(self, payment: Payment) -> int:
        """What there is where it comes from."""
        ...

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """What the chain shows."""
        ...


class AnySender:
    """An EVM token as a facilitator sees it: whoever may send the authorisation."""

    def __init__(self, token: Eip3009) -> None:
        self._token = token
        self.option = token.option
        self.confirmations = token.confirmations
        self.check_signature = token.check_signature
        self.balance = token.balance
        self.look = token.look

    async def verify(self, payment: Payment) -> int:
        """Run the transfer as the recipient would send it."""
        return await self._token.verify(payment, {"from": self.option.pay_to})


class FacilitatorRail:
    """One network, settled by ``POST {url}/settle``."""

    def __init__(
        self, url: str, headers: Mapping[str, str], token: Token, rpc: JsonRpc, timeout_s: float = 60.0
    ) -> None:
        self._url = url.rstrip("/") + "/settle"
        self._headers = {**headers, "content-type": "application/json"}
        self._token = token
        self._rpc = rpc
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    @property
    def option(self) -> PaymentOption:
        """What this rail asks for."""
        return self._token.option

    @property
    def confirmations(self) -> int:
        """How deep a payment must be before it is credited."""
        return self._token.confirmations

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's key signed."""
        return self._token.check_signature(payment)

    async def verify(self, payment: Payment) -> int:
        """Whether the chain would accept it."""
        return await self._token.verify(payment)

    async def balance(self, payment: Payment) -> int:
        """What there is where the payment comes from."""
        return await self._token.balance(payment)

    async def settle(self, payment: Payment, record: Record) -> None:
        """Record, then ask. Neither success nor failure is believed: the chain is asked next, in either case."""
        await record(Submission(None, None))
        body = msgspec.json.encode(
            {
                "x402Version": 2,
                "paymentPayload": msgspec.Raw(render_payment(payment)),
                "paymentRequirements": requirement(payment),
            }
        )
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.post(self._url, data=body, headers=self._headers, allow_redirects=False) as answer,
            ):
                await answer.content.read(65_536)
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise RpcUnavailable("the facilitator does not answer") from None

    async def resend(self, intent: Intent) -> bool:  # noqa: ARG002 - the port's signature
        """Nothing: only the facilitator has the transaction, and it may happen yet."""
        return True

    async def funds(self) -> None:
        """The facilitator's own matter."""

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """What the chain shows."""
        return await self._token.look(payment, intent)

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()
