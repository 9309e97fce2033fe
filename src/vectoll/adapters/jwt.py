"""JWTs as bearer credentials, signed by the operator's own issuer with EdDSA, ES256 or RS256 (RFC 7519, 8725).

Each configured key is bound to the one algorithm that its type allows, and the token's ``alg`` only has to agree:
so neither ``none`` nor an HMAC keyed with a public key can pass. A token names an account and, where
``jwt.pro_claim`` says so, Pro; it never makes an administrator. Those are made with `vectoll keys create --admin`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from vectoll.core.auth import MAX_CREDENTIAL_LENGTH, bearer_token
from vectoll.domain.errors import ConfigurationError, Unauthenticated
from vectoll.domain.identity import KEY_PREFIX, Principal
from vectoll.domain.ids import AccountId, parse_account
from vectoll.domain.wallets import parse_wallet
from vectoll.settings import JwtSettings

MIN_RSA_BITS = 2048
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")

PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, the only algorithm it verifies, and its ``kid`` where it came with one."""

    algorithm: str
    key: PublicKey
    kid: str | None = None


class JwtAuthenticator:
    """Reads ``Authorization: Bearer <JWT>``."""

    def __init__(self, settings: JwtSettings) -> None:
        """Raises ConfigurationError for a file that cannot be read or holds a key that must not be used."""
        self._settings = settings
        self._keys = tuple(_read_keys(settings))

    async def authenticate(
        self,
        headers: Mapping[str, str],
        client: str,  # noqa: ARG002 - the port's signature
    ) -> Principal | None:
        """None for anything that is not shaped like a JWT. Raises Unauthenticated."""
        token = bearer_token(headers)
        if token is None or token.startswith(KEY_PREFIX) or not _COMPACT_JWS.fullmatch(token):
            return None
        if len(token) > MAX_CREDENTIAL_LENGTH:
            raise _refused("it is too long")
        claims = self._verify(token)
        pro_claim = self._settings.pro_claim
        return Principal(
            account=_account(claims["sub"]),
            is_pro=pro_claim is not None and claims.get(pro_claim) is True,
        )

    def _verify(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise _refused("it is malformed") from None
        candidates = self._candidates(header)
        if not candidates:
            raise _refused("no configured key can have signed it")
        for candidate in candidates:
            try:
                return self._decode(token, candidate)
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise _refused("it has expired") from None
            except jwt.PyJWTError as error:
                raise _refused(_REASONS.get(type(error), "it is malformed")) from None
        raise _refused("its signature does not verify")

    def _candidates(self, header: Mapping[str, Any]) -> list[VerifyingKey]:
        """The keys of the token's algorithm: those of its ``kid`` where it names one, and those without a kid."""
        algorithm, kid = header.get("alg"), header.get("kid")
        return [
            key
            for key in self._keys
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        ]

    def _decode(self, token: str, key: VerifyingKey) -> dict[str, Any]:
        settings = self._settings
        required = ["exp", "sub"]
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=settings.issuer,
            audience=settings.audience,
            leeway=settings.leeway_s,
            options={"require": required, "verify_aud": settings.audience is not None},
        )


_REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.MissingRequiredClaimError: "it lacks a required claim",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidIssuerError: "its issuer is not accepted here",
    jwt.InvalidAudienceError: "its audience is not accepted here",
    jwt.exceptions.InvalidSubjectError: "its subject is not text",
}


def _refused(reason: str) -> Unauthenticated:
    return Unauthenticated(f"Authentication failed: this token is not accepted: {reason}.")


def _account(subject: str) -> AccountId:
    """The subject's account. Wallets, and accounts made by vectoll, prove themselves otherwise: no token names one."""
    try:
        account = parse_account(subject)
    except ValueError:
        raise _refused("its subject is not an account id") from None
    if account.startswith(("acct_", "key_")) or _is_wallet(account):
        raise _refused("its subject is reserved")
    return account


def _is_wallet(account: AccountId) -> bool:
    try:
        parse_wallet(account)
    except ValueError:
        return False
    return True


def _read_keys(settings: JwtSettings) -> Iterator[VerifyingKey]:
    for name in settings.public_key_files:
        yield _from_pem(name, _read(name, "jwt.public_key_files"))
    if settings.jwks_file is not None:
        yield from _from_jwks(settings.jwks_file, _read(settings.jwks_file, "jwt.jwks_file"))


def _read(name: str, setting: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as error:
        raise ConfigurationError(f"setting {setting}: cannot read {name}: {error.strerror}") from None


def _from_pem(name: str, pem: bytes) -> VerifyingKey:
    if b"PRIVATE KEY" in pem:
        raise ConfigurationError(
            f"setting jwt.public_key_files: {name} holds a private key; vectoll needs the public one only"
        )
    try:
        return _bound(load_pem_public_key(pem), None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"setting jwt.public_key_files: {name}: {error}") from None


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


def _from_jwks(name: str, content: bytes) -> Iterator[VerifyingKey]:
    """The signature keys of a JWKS file; keys for encryption (``use: enc``) are passed over."""
    try:
        entries = msgspec.json.decode(content, type=_Jwks).keys
        keys = [_from_jwk(entry) for entry in entries if entry.get("use", "sig") == "sig"]
    except (msgspec.MsgspecError, jwt.PyJWTError, ValueError) as error:
        raise ConfigurationError(f"setting jwt.jwks_file: {name}: {error}") from None
    if not keys:
        raise ConfigurationError(f"setting jwt.jwks_file: {name} holds no signature key")
    yield from keys


def _from_jwk(entry: dict[str, Any]) -> VerifyingKey:
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("a kid is not text")
    if entry.get("kty") == "oct" or "d" in entry:
        raise ValueError(f"key {kid!r} holds a secret; vectoll needs public keys only")
    key = _bound(jwt.PyJWK(entry).key, kid)
    if entry.get("alg", key.algorithm) != key.algorithm:
        raise ValueError(f"key {kid!r} is for {entry['alg']}, vectoll takes EdDSA, ES256 and RS256")
    return key


def _bound(key: object, kid: str | None) -> VerifyingKey:
    """Raises ValueError for a type, curve or size that is not accepted."""
    match key:
        case Ed25519PublicKey():
            return VerifyingKey("EdDSA", key, kid)
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return VerifyingKey("ES256", key, kid)
        case RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return VerifyingKey("RS256", key, kid)
        case _:
            raise ValueError(f"not an Ed25519, P-256 or RSA (at least {MIN_RSA_BITS} bits) public key")
