"""Everything that is stored, in one place: what the composition root opens and hands out piece by piece."""

from typing import Protocol

from vectoll.ports.allowances import Allowances
from vectoll.ports.history import AccountHistory
from vectoll.ports.keys import KeyStore
from vectoll.ports.ledger import Ledger
from vectoll.ports.nonces import NonceStore
from vectoll.ports.payments import PaymentStore


class Store(Protocol):
    """Belongs to the event loop in which it was opened."""

    @property
    def ledger(self) -> Ledger:
        """Where money is."""
        ...

    @property
    def keys(self) -> KeyStore:
        """API keys."""
        ...

    @property
    def payments(self) -> PaymentStore:
        """Payments in USDC."""
        ...

    @property
    def nonces(self) -> NonceStore:
        """Sign-in nonces."""
        ...

    @property
    def history(self) -> AccountHistory:
        """Accounts' movements."""
        ...

    @property
    def allowances(self) -> Allowances:
        """Daily allowances."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether it could not be reached when it was last used. Asks nothing."""
        ...

    async def close(self) -> None:
        """Finish what was asked for, then free what is held. Later calls raise Draining."""
        ...
