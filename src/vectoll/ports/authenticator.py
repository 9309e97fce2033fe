"""One way to prove who is calling."""

from collections.abc import Mapping
from typing import Protocol

from vectoll.domain.identity import Principal


class Authenticator(Protocol):
    """Reads request headers (lower-case names). Ordered: the first that does not return None decides."""

    async def authenticate(self, headers: Mapping[str, str], client: str) -> Principal | None:
        """None when these credentials are not of this authenticator's kind.

        Raises Unauthenticated when they are and do not hold. Nothing is charged or counted, except that work which an
        unproved claim causes elsewhere counts against ``client``, and may raise RateLimited.
        """
        ...
