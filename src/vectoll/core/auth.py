"""From request headers to a Principal: ordered authenticators, deny by default."""

from collections.abc import Mapping, Sequence

from vectoll.domain.errors import Forbidden, NoCredentials, Unauthenticated
from vectoll.domain.identity import KEY_PREFIX, KeyKind, Principal, digest_of, digests_equal
from vectoll.ports.authenticator import Authenticator
from vectoll.ports.clock import Clock
from vectoll.ports.keys import KeyStore

MAX_CREDENTIAL_LENGTH = 8192
"""Longer headers are refused before any work is done on them."""

_NO_BEARER = "Authentication failed: send `Authorization: Bearer <API key>`; what came has another form."
_INVALID = "Authentication failed: the API key is not valid. Create one with `vectoll keys create`."


class Authentication:
    """Asks each authenticator in turn."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def identify(self, headers: Mapping[str, str], client: str) -> Principal:
        """Who is calling. Raises Unauthenticated when nobody is, or the credentials do not hold.

        Raises RateLimited where it costs too much to find out for this ``client``.
        """
        principal = await self.identify_if_any(headers, client)
        if principal is None:
            raise NoCredentials
        return principal

    async def identify_if_any(self, headers: Mapping[str, str], client: str) -> Principal | None:
        """``identify``, but None for a caller who sent no credentials."""
        for authenticator in self._authenticators:
            principal = await authenticator.authenticate(headers, client)
            if principal is not None:
                return principal
        if "authorization" in headers or "api-key" in headers:
            raise Unauthenticated(_INVALID if bearer_token(headers) else _NO_BEARER)
        return None


def require_admin(principal: Principal) -> None:
    """Raises Forbidden unless the caller holds an ADMIN key."""
    if not principal.is_admin:
        raise Forbidden("This needs an ADMIN API key. Create one with `vectoll keys create --admin`.")


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """The credential of ``Authorization: Bearer`` (RFC 6750, scheme case-insensitive), else of ``api-key``."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("api-key") or None


class KeyAuthenticator:
    """Opaque API keys, looked up by their SHA-256."""

    def __init__(self, keys: KeyStore, clock: Clock) -> None:
        self._keys = keys
        self._clock = clock

    async def authenticate(
        self,
        headers: Mapping[str, str],
        client: str,  # noqa: ARG002 - the port's signature
    ) -> Principal | None:
        """None for anything that does not start like an opaque key."""
        secret = bearer_token(headers)
        if secret is None or not secret.startswith(KEY_PREFIX):
            return None
        if len(secret) > MAX_CREDENTIAL_LENGTH or not secret.isascii():
            raise Unauthenticated(_INVALID)
        digest = digest_of(secret)
        key = await self._keys.by_digest(digest)
        if key is None or not digests_equal(key.digest, digest):
            raise Unauthenticated(_INVALID)
        if not key.is_active(self._clock.now()):
            state = "revoked" if key.revoked_at else "expired"
            raise Unauthenticated(f"Authentication failed: this API key is {state}.")
        return Principal(
            account=key.account,
            key=key.id,
            is_admin=key.kind is KeyKind.ADMIN,
            is_pro=key.is_pro,
            limit=key.limit,
        )
