"""JwtAuthenticator, with real keys and hand-made forgeries."""

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.jwt import JwtAuthenticator
from vectoll.core.auth import MAX_CREDENTIAL_LENGTH
from vectoll.domain.errors import ConfigurationError, Unauthenticated
from vectoll.settings import JwtSettings

CLIENT = "address:192.0.2.1"

ED = ed25519.Ed25519PrivateKey.generate()
ED_OTHER = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
SIGNERS: dict[str, Any] = {"EdDSA": ED, "ES256": EC, "RS256": RSA}


def public_pem(private: Any) -> bytes:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(private: Any) -> bytes:
    pem: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims; None takes one out."""
    merged = {"sub": "user-42", "exp": int(time.time()) + 600} | changes
    return {name: value for name, value in merged.items() if value is not None}


def signed(algorithm: str = "EdDSA", key: Any = None, header: Any = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key or SIGNERS[algorithm], algorithm, headers=header)


def b64(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


Make = Callable[..., JwtAuthenticator]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An authenticator over PEM files of the given keys."""

    def build(*keys: Any, **settings: Any) -> JwtAuthenticator:
        paths = []
        for number, key in enumerate(keys or SIGNERS.values()):
            path = tmp_path / f"{number}.pem"
            path.write_bytes(public_pem(key))
            paths.append(str(path))
        return JwtAuthenticator(JwtSettings(public_key_files=tuple(paths), **settings))

    return build


@pytest.fixture
def make_jwks(tmp_path: Path) -> Callable[[list[dict[str, Any]]], JwtAuthenticator]:
    def build(keys: list[dict[str, Any]]) -> JwtAuthenticator:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps({"keys": keys}))
        return JwtAuthenticator(JwtSettings(jwks_file=str(path)))

    return build


def jwk(private: Any, kid: str | None = None, **extra: Any) -> dict[str, Any]:
    algorithms: dict[type[Any], Any] = {
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
    }
    algorithm = next(a for kind, a in algorithms.items() if isinstance(private, kind))
    entry: dict[str, Any] = algorithm.to_jwk(private.public_key(), as_dict=True)
    entry.pop("key_ops", None)
    return entry | ({"kid": kid} if kid else {}) | extra


@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_good_token_names_its_account_and_nothing_more(make: Make, algorithm: str) -> None:
    principal = await make().authenticate(bearer(signed(algorithm)), CLIENT)
    assert principal is not None
    assert principal.account == "user-42"
    assert (principal.key, principal.is_admin, principal.is_pro, principal.limit) == (
        None,
        False,
        False,
        None,
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer("vtk_abc.def.ghi"),
        bearer("opaque"),
        bearer("a.b"),
        bearer("a.b.c.d"),
        bearer("a.b!.c"),
        {"authorization": "Basic a.b.c"},
        {"authorization": "Bearer"},
    ],
)
async def test_other_credentials_are_left_to_others(make: Make, headers: dict[str, str]) -> None:
    assert await make().authenticate(headers, CLIENT) is None


def forged_none() -> str:
    return f"{b64({'alg': 'none', 'typ': 'JWT'})}.{b64(claims())}."


def forged_hmac(secret: bytes, algorithm: str = "HS256") -> str:
    body = f"{b64({'alg': algorithm, 'typ': 'JWT'})}.{b64(claims())}"
    return f"{body}.{b64(hmac.digest(secret, body.encode(), hashlib.sha256))}"


def relabelled(algorithm: str) -> str:
    """A good signature under another ``alg``."""
    _, payload, signature = signed("EdDSA").split(".")
    return f"{b64({'alg': algorithm})}.{payload}.{signature}"


def tampered() -> str:
    header, _, signature = signed("EdDSA").split(".")
    return f"{header}.{b64(claims(sub='someone-else'))}.{signature}"


REFUSED: dict[str, Callable[[], str]] = {
    "alg none": forged_none,
    "alg None": lambda: forged_none().replace(b64({"alg": "none", "typ": "JWT"}), b64({"alg": "NoNe"})),
    "HMAC keyed with the RSA public key": lambda: forged_hmac(public_pem(RSA)),
    "HMAC keyed with the Ed25519 public key": lambda: forged_hmac(public_pem(ED)),
    "HMAC keyed with nothing": lambda: forged_hmac(b""),
    "relabelled ES256": lambda: relabelled("ES256"),
    "relabelled RS256": lambda: relabelled("RS256"),
    "RS512, a good key and another algorithm": lambda: signed("RS512", RSA),
    "PS256": lambda: signed("PS256", RSA),
    "alg is a list": lambda: relabelled(["EdDSA"]),  # type: ignore[arg-type]
    "signed by a stranger": lambda: signed(key=ED_OTHER),
    "tampered": tampered,
    "no signature": lambda: signed().rsplit(".", 1)[0] + ".",
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "expired long ago": lambda: signed(exp=0),
    "no exp": lambda: signed(exp=None),
    "exp is text": lambda: signed(exp="never"),
    "exp is infinite": lambda: signed(exp=float("inf")),
    "exp is NaN": lambda: signed(exp=float("nan")),
    "exp is a list": lambda: signed(exp=[1]),
    "not before tomorrow": lambda: signed(nbf=int(time.time()) + 86_400),
    "issued tomorrow": lambda: signed(iat=int(time.time()) + 86_400),
    "no sub": lambda: signed(sub=None),
    "sub is a number": lambda: jwt.api_jws.encode(json.dumps(claims(sub=42)).encode(), ED, "EdDSA"),
    "sub is empty": lambda: signed(sub=""),
    "sub is a system account": lambda: signed(sub="$revenue:2026-11"),
    "sub is an account that vectoll made": lambda: signed(sub="acct_0123"),
    "sub is a key's id": lambda: signed(sub="key_0123"),
    "sub is an EVM wallet": lambda: signed(sub="0x" + "Ab" * 20),
    "sub is a Solana wallet": lambda: signed(sub="EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"),
    "sub has a line break": lambda: signed(sub="user\n42"),
    "sub is too long": lambda: signed(sub="u" * 129),
    "unknown critical header": lambda: signed(header={"crit": ["exp"], "exp": 1}),
    "detached payload": lambda: signed(header={"crit": ["b64"], "b64": False}),
    "embedded key": lambda: signed(key=ED_OTHER, header={"jwk": jwk(ED_OTHER)}),
    "payload is not an object": lambda: jwt.api_jws.encode(b"[1]", ED, "EdDSA"),
    "payload is nested deeply": lambda: jwt.api_jws.encode(b"[" * 3000, ED, "EdDSA"),
    "header is nested deeply": lambda: f"{b64(b'[' * 3000)}.{b64(claims())}.AA",
    "header is not an object": lambda: f"{b64(b'1')}.{b64(claims())}.AA",
    "header is not JSON": lambda: f"{b64(b'{')}.{b64(claims())}.AA",
    "too long": lambda: signed(more="x" * MAX_CREDENTIAL_LENGTH),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_token_is_refused(make: Make, name: str) -> None:
    token = REFUSED[name]()
    with pytest.raises(Unauthenticated, match="this token is not accepted") as refusal:
        await make().authenticate(bearer(token), CLIENT)
    assert token not in str(refusal.value)
    assert b64(b'{"') not in str(refusal.value)


async def test_refusal_says_what_to_mend(make: Make) -> None:
    with pytest.raises(Unauthenticated, match="it has expired"):
        await make().authenticate(bearer(signed(exp=1)), CLIENT)
    with pytest.raises(Unauthenticated, match="lacks a required claim"):
        await make().authenticate(bearer(signed(exp=None)), CLIENT)


async def test_leeway_covers_a_clock_that_is_a_little_late(make: Make) -> None:
    token = signed(exp=int(time.time()) - 10)
    assert await make(leeway_s=30).authenticate(bearer(token), CLIENT) is not None
    with pytest.raises(Unauthenticated):
        await make(leeway_s=0).authenticate(bearer(token), CLIENT)


async def test_issuer_and_audience_are_checked_when_set(make: Make) -> None:
    strict = make(issuer="https://id.example", audience="vectoll")
    good = signed(iss="https://id.example", aud=["other", "vectoll"])
    assert await strict.authenticate(bearer(good), CLIENT) is not None
    for bad in ({"iss": "https://evil.example"}, {"aud": "other"}, {"iss": None}, {"aud": None}):
        token = signed(**({"iss": "https://id.example", "aud": "vectoll"} | bad))
        with pytest.raises(Unauthenticated):
            await strict.authenticate(bearer(token), CLIENT)


async def test_issuer_and_audience_are_ignored_when_not_set(make: Make) -> None:
    assert await make().authenticate(bearer(signed(iss="anyone", aud="anything")), CLIENT) is not None


@pytest.mark.parametrize(("value", "is_pro"), [(True, True), (False, False), ("true", False), (1, False)])
async def test_pro_claim_counts_only_when_configured_and_true(make: Make, value: Any, is_pro: bool) -> None:
    token = bearer(signed(pro=value, admin=True, is_admin=True))
    configured = await make(pro_claim="pro").authenticate(token, CLIENT)
    unconfigured = await make().authenticate(token, CLIENT)
    assert configured is not None
    assert unconfigured is not None
    assert configured.is_pro is is_pro
    assert unconfigured.is_pro is False
    assert configured.is_admin is False


async def test_any_of_several_keys_of_one_algorithm_may_have_signed(make: Make) -> None:
    authenticator = make(ED_OTHER, ED)
    assert await authenticator.authenticate(bearer(signed(key=ED)), CLIENT) is not None
    assert await authenticator.authenticate(bearer(signed(key=ED_OTHER)), CLIENT) is not None


async def test_jwks_key_is_chosen_by_kid(make_jwks: Callable[..., JwtAuthenticator]) -> None:
    authenticator = make_jwks([jwk(ED, "a"), jwk(ED_OTHER, "b"), jwk(EC, "c"), jwk(RSA, "d", alg="RS256")])
    for algorithm, key, kid in (
        ("EdDSA", ED, "a"),
        ("EdDSA", ED_OTHER, "b"),
        ("ES256", EC, "c"),
        ("RS256", RSA, "d"),
    ):
        assert (
            await authenticator.authenticate(bearer(signed(algorithm, key, {"kid": kid})), CLIENT) is not None
        )
    for algorithm, key, kid in (("EdDSA", ED, "b"), ("EdDSA", ED, "unknown"), ("EdDSA", ED, "c")):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(bearer(signed(algorithm, key, {"kid": kid})), CLIENT)


async def test_jwks_encryption_keys_are_passed_over(make_jwks: Callable[..., JwtAuthenticator]) -> None:
    authenticator = make_jwks([jwk(ED, use="sig"), jwk(ED_OTHER, use="enc")])
    assert await authenticator.authenticate(bearer(signed()), CLIENT) is not None
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(bearer(signed(key=ED_OTHER)), CLIENT)


WRONG_KEYS: dict[str, tuple[Callable[[], bytes], str]] = {
    "private": (lambda: private_pem(ED), "private key"),
    "1024-bit RSA": (lambda: public_pem(rsa.generate_private_key(65537, 1024)), "at least 2048 bits"),
    "P-384": (lambda: public_pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
    "secp256k1": (lambda: public_pem(ec.generate_private_key(ec.SECP256K1())), "P-256"),
    "Ed448": (lambda: public_pem(ed448.Ed448PrivateKey.generate()), "Ed25519"),
    "DSA": (lambda: public_pem(dsa.generate_private_key(2048)), "Ed25519"),
    "no PEM": (lambda: b"hello", "keys.pem"),
    "empty": (lambda: b"", "keys.pem"),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_wrong_key_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    content, says = WRONG_KEYS[name]
    path = tmp_path / "keys.pem"
    path.write_bytes(content())
    with pytest.raises(ConfigurationError, match=says) as error:
        JwtAuthenticator(JwtSettings(public_key_files=(str(path),)))
    assert "jwt.public_key_files" in str(error.value)


WRONG_JWKS: dict[str, tuple[Callable[[], Any], str]] = {
    "a secret": (lambda: {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "s"}]}, "holds a secret"),
    "a private key": (lambda: {"keys": [jwk(ED) | {"d": "c2VjcmV0"}]}, "holds a secret"),
    "another algorithm": (lambda: {"keys": [jwk(RSA, alg="RS512")]}, "RS512"),
    "no keys": (lambda: {"keys": []}, "no signature key"),
    "no list": (lambda: {"keys": 1}, "jwks_file"),
    "one key": (lambda: jwk(ED), "jwks_file"),
    "a number as kid": (lambda: {"keys": [jwk(ED) | {"kid": 1}]}, "kid"),
    "a key without its point": (lambda: {"keys": [{"kty": "OKP", "crv": "Ed25519"}]}, "jwks_file"),
    "another curve": (lambda: {"keys": [{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}]}, "jwks_file"),
}


@pytest.mark.parametrize("name", WRONG_JWKS)
def test_wrong_jwks_file_is_one_clear_line(tmp_path: Path, name: str) -> None:
    content, says = WRONG_JWKS[name]
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(content()))
    with pytest.raises(ConfigurationError, match=says) as error:
        JwtAuthenticator(JwtSettings(jwks_file=str(path)))
    assert "\n" not in str(error.value)
    assert "c2VjcmV0" not in str(error.value)


def test_missing_key_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*gone.pem: No such file"):
        JwtAuthenticator(JwtSettings(public_key_files=(str(tmp_path / "gone.pem"),)))


@pytest.fixture(scope="session")
def with_ed25519(tmp_path_factory: pytest.TempPathFactory) -> JwtAuthenticator:
    path = tmp_path_factory.mktemp("keys") / "ed25519.pem"
    path.write_bytes(public_pem(ED))
    return JwtAuthenticator(JwtSettings(public_key_files=(str(path),)))


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)


@given(header=st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ"]), JSON), body=st.binary())
async def test_forged_token_raises_only_unauthenticated(
    with_ed25519: JwtAuthenticator, header: dict[str, Any], body: bytes
) -> None:
    token = f"{b64({'alg': 'EdDSA'} | header)}.{b64(body)}.{b64(body)}"
    with pytest.raises(Unauthenticated):
        await with_ed25519.authenticate(bearer(token), CLIENT)


@given(changes=st.dictionaries(st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud"]), JSON))
async def test_signed_token_with_odd_claims_raises_only_unauthenticated(
    with_ed25519: JwtAuthenticator, changes: dict[str, Any]
) -> None:
    token = jwt.api_jws.encode(json.dumps({"sub": "u"} | changes).encode(), ED, "EdDSA")
    with contextlib.suppress(Unauthenticated):
        assert await with_ed25519.authenticate(bearer(token), CLIENT) is not None
