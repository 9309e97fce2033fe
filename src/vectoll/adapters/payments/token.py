"""The half of a rail that only reads."""

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.domain.payments import Intent, Payment, PaymentOption, Sighting
from vectoll.ports.payments import Token


class TokenRail:
    """What every rail has from its token; how it sends is its own."""

    def __init__(self, token: Token, rpc: JsonRpc) -> None:
        """``rpc`` is closed with the rail."""
        self._token = token
        self._rpc = rpc

    @property
    def option(self) -> PaymentOption:
        """What this rail asks for."""
        return self._token.option

    @property
    def confirmations(self) -> int:
        """How deep a payment must be before it is credited."""
        return self._token.confirmations

    def check_signature(self, payment: Payment) -> bool:
        """Whether the payer's own key signed."""
        return self._token.check_signature(payment)

    async def verify(self, payment: Payment) -> int:
        """Whether the chain would accept it."""
        return await self._token.verify(payment)

    async def balance(self, payment: Payment) -> int:
        """What there is where the payment comes from."""
        return await self._token.balance(payment)

    async def look(self, payment: Payment, intent: Intent) -> Sighting:
        """What the chain shows."""
        return await self._token.look(payment, intent)

    async def close(self) -> None:
        """Close the connections."""
        await self._rpc.close()
