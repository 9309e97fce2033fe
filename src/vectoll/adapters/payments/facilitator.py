"""Settlement by a remote x402 facilitator. It sends; whether money arrived is read from the chain, not from it."""

from collections.abc import Mapping

import aiohttp
import msgspec

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.payments.token import TokenRail
from vectoll.core.payment_header import render_payment, requirement
from vectoll.domain.payments import Intent, Payment, Submission
from vectoll.ports.payments import NothingSent, Record, Token
from vectoll.ports.wallets import RpcUnavailable

_TIMEOUT = aiohttp.ClientTimeout(total=60)


class FacilitatorRail(TokenRail):
    """One network, settled by ``POST {url}/settle``."""

    def __init__(self, url: str, headers: Mapping[str, str], token: Token, rpc: JsonRpc) -> None:
        super().__init__(token, rpc)
        self._url = url.rstrip("/") + "/settle"
        self._headers = {**headers, "content-type": "application/json"}

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
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(self._url, data=body, headers=self._headers, allow_redirects=False) as answer,
            ):
                await answer.content.read(65_536)
        except aiohttp.ClientConnectorError:
            raise NothingSent("the facilitator cannot be reached") from None
        except (TimeoutError, aiohttp.ClientError, OSError):
            raise RpcUnavailable("the facilitator does not answer") from None

    async def resend(self, intent: Intent) -> bool:  # noqa: ARG002 - the port's signature
        """Nothing: only the facilitator has the transaction, and it may happen yet."""
        return True

    async def funds(self) -> None:
        """The facilitator's own matter."""
