"""Ethereum's signatures, against another implementation: eth-account's."""

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given, settings
from hypothesis import strategies as st

from vectoll.adapters.chains.secp256k1 import _ORDER, SigningKey, eip191_digest, recover

SECRET = bytes([7]) * 32
DIGEST = bytes(range(32))

secrets = st.integers(1, _ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


def signed(secret: bytes = SECRET, digest: bytes = DIGEST) -> bytes:
    y_parity, r, s = SigningKey(secret).sign(digest)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + y_parity])


@settings(max_examples=25, deadline=None)
@given(secrets, st.binary(min_size=32, max_size=32))
def test_signatures_are_those_of_eth_account(secret: bytes, digest: bytes) -> None:
    account = Account.from_key(secret)
    assert signed(secret, digest) == bytes(account.unsafe_sign_hash(digest).signature)
    assert (
        SigningKey(secret).address
        == recover(digest, signed(secret, digest))
        == bytes.fromhex(account.address[2:])
    )


@settings(max_examples=10, deadline=None)
@given(st.text())
def test_a_signed_text_tells_its_signer(text: str) -> None:
    account = Account.from_key(SECRET)
    signature = account.sign_message(encode_defunct(text=text)).signature
    assert recover(eip191_digest(text.encode()), bytes(signature)) == SigningKey(SECRET).address


def test_v_may_be_zero_or_one() -> None:
    signature = signed()
    assert recover(DIGEST, signature[:64] + bytes([signature[64] - 27])) == SigningKey(SECRET).address


def test_the_other_half_of_the_order_is_refused() -> None:
    signature = signed()
    s = _ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - signature[64]])
    assert recover(DIGEST, twin) is None


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        signed()[:64],
        signed() + b"\0",
        bytes(32) + signed()[32:],
        signed()[:32] + bytes(32) + signed()[64:],
        _ORDER.to_bytes(32, "big") + signed()[32:],
        (5).to_bytes(32, "big") + signed()[32:],  # no point of the curve has this x
        *(signed()[:64] + bytes([v]) for v in (2, 3, 26, 29, 31, 255)),
    ],
)
def test_what_is_no_canonical_signature_names_nobody(signature: bytes) -> None:
    assert recover(DIGEST, signature) is None


@pytest.mark.parametrize(
    "secret", [b"", bytes(31), bytes(32), _ORDER.to_bytes(32, "big"), b"\xff" * 32, bytes([1]) * 33]
)
def test_what_is_no_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="private key"):
        SigningKey(secret)


def test_a_key_does_not_show_its_secret() -> None:
    key = SigningKey(SECRET)
    assert SECRET.hex() not in repr(key)
    assert repr(key) == f"SigningKey(0x{key.address.hex()})"
