"""From headers to a Principal."""

from datetime import UTC, datetime, timedelta

import pytest

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.core.auth import Authentication, KeyAuthenticator, bearer_token, require_admin
from vectoll.domain.errors import Forbidden, Unauthenticated
from vectoll.domain.identity import ApiKey, KeyKind, Principal, digest_of, new_secret
from vectoll.domain.ids import AccountId, KeyId

CLIENT = "address:192.0.2.1"

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


class FixedClock:
    def now(self) -> datetime:
        return NOW


async def with_key(secret: str, **fields: object) -> Authentication:
    store = MemoryStore()
    key = ApiKey(
        id=KeyId("key_1"),
        account=AccountId("acct_1"),
        kind=KeyKind.INFERENCE,
        name="test",
        digest=digest_of(secret),
        prefix=secret[:8],
        last6=secret[-6:],
        created_at=NOW,
        **fields,  # type: ignore[arg-type]
    )
    await store.keys.add(key)
    return Authentication([KeyAuthenticator(store.keys, FixedClock())])


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_valid_key_is_its_account() -> None:
    secret = new_secret()
    principal = await (await with_key(secret, is_pro=True)).identify(bearer(secret), CLIENT)
    assert principal == Principal(AccountId("acct_1"), KeyId("key_1"), is_pro=True)
    assert principal.caller == (principal.account, "key_1")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"revoked_at": NOW - timedelta(seconds=1)}, "revoked"),
        ({"expires_at": NOW}, "expired"),
    ],
)
async def test_key_that_has_ended_is_refused(fields: dict[str, object], why: str) -> None:
    secret = new_secret()
    with pytest.raises(Unauthenticated, match=why):
        await (await with_key(secret, **fields)).identify(bearer(secret), CLIENT)


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dTpw", "KEY", "Token KEY", "Bearer:KEY"])
async def test_a_header_without_a_bearer_token_is_told_what_to_send(header: str) -> None:
    secret = new_secret()
    auth = await with_key(secret)
    with pytest.raises(Unauthenticated, match=r"send `Authorization: Bearer <API key>`") as refused:
        await auth.identify({"authorization": header.replace("KEY", secret)}, CLIENT)
    assert "not valid" not in str(refused.value)
    assert secret not in str(refused.value)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "Bearer sk-somebody-elses"},
        {"authorization": "Bearer vtk_wrong"},
        {"authorization": "Bearer vtk_é"},
        {"authorization": "Bearer vtk_" + "a" * 10_000},
    ],
)
async def test_anything_else_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await (await with_key(new_secret())).identify(headers, CLIENT)
    credential = headers.get("authorization", "").removeprefix("Bearer")[1:]
    assert not credential or credential not in str(refused.value)


async def test_no_credentials_is_nobody_and_bad_ones_are_an_error() -> None:
    authentication = await with_key(new_secret())
    assert await authentication.identify_if_any({}, CLIENT) is None
    with pytest.raises(Unauthenticated):
        await authentication.identify_if_any(bearer("nonsense"), CLIENT)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"authorization": "bearer  abc "}, "abc"),
        ({"authorization": "BEARER abc"}, "abc"),
        ({"api-key": "abc"}, "abc"),
        ({"authorization": "Bearer first", "api-key": "second"}, "first"),
        ({}, None),
    ],
)
def test_bearer_token_forms(headers: dict[str, str], token: str | None) -> None:
    assert bearer_token(headers) == token


def test_only_admin_keys_manage() -> None:
    require_admin(Principal(AccountId("a"), is_admin=True))
    with pytest.raises(Forbidden, match="ADMIN"):
        require_admin(Principal(AccountId("a")))
