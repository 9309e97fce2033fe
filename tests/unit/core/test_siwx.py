"""Sign-in with a wallet, signed by independent libraries: eth-account and solders."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st
from solders.keypair import Keypair

from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory_wallets import MemoryNonceStore
from vectoll.adapters.wallets.evm import EvmSignatureVerifier
from vectoll.adapters.wallets.solana import SolanaSignatureVerifier
from vectoll.core.signin import SiwxAuthenticator
from vectoll.core.wallet_signatures import (
    CHECKS_IN_ALL,
    CHECKS_PER_CLIENT,
    ContractWallets,
    WalletSignatures,
)
from vectoll.domain.errors import RateLimited, Unauthenticated
from vectoll.domain.ids import AccountId
from vectoll.domain.siwx import BASE, SOLANA, SignInRefused, SignInRule, SignInRules
from vectoll.domain.wallets import Family, WalletAddress, base58_encode, parse_wallet
from vectoll.ports.wallets import RpcUnavailable

CLIENT = "address:192.0.2.1"

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
EVM = Account.from_key("0x" + "11" * 32)
SOL = Keypair.from_seed(bytes([7]) * 32)
RULES = SignInRules(frozenset({"api.example.com"}), frozenset({BASE, SOLANA}))


@dataclass
class FixedClock:
    at: datetime = NOW

    def now(self) -> datetime:
        return self.at


@dataclass
class SpyContract:
    answer: bool | Exception = True
    asked: list[str] = field(default_factory=list)

    async def is_accepted_by(self, wallet: WalletAddress, text: str, signature: str, chain: str) -> bool:
        self.asked.append(wallet.text)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def authenticator(
    *, at: datetime = NOW, contract: SpyContract | None = None, nonces: MemoryNonceStore | None = None
) -> SiwxAuthenticator:
    return SiwxAuthenticator(
        RULES,
        WalletSignatures(
            {Family.EVM: EvmSignatureVerifier(), Family.SOLANA: SolanaSignatureVerifier()},
            ContractWallets(contract, MemoryRateLimiter()) if contract else None,
        ),
        nonces or MemoryNonceStore(),
        FixedClock(at),
    )


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def evm_text(**changes: Any) -> str:
    lines = {
        "domain": "api.example.com",
        "address": EVM.address,
        "statement": "\nSign in to Venice API\n",
        "uri": "https://api.example.com",
        "version": "1",
        "chain": "8453",
        "nonce": "abcdef0123456789",
        "issued": stamp(NOW),
        "tail": f"\nExpiration Time: {stamp(NOW + timedelta(minutes=10))}",
        "people": "Ethereum",
    } | changes
    return (
        "{domain} wants you to sign in with your {people} account:\n{address}\n{statement}\nURI: {uri}\n"
        "Version: {version}\nChain ID: {chain}\nNonce: {nonce}\nIssued At: {issued}{tail}"
    ).format(**lines)


def sol_text(**changes: Any) -> str:
    return evm_text(**{"address": str(SOL.pubkey()), "chain": SOLANA, "people": "Solana"} | changes)


def encode(payload: Any) -> str:
    return base64.b64encode(json.dumps(payload).encode()).decode()


def evm_signature(text: str) -> str:
    return "0x" + bytes(EVM.sign_message(encode_defunct(text=text)).signature).hex()


def evm_header(text: str | None = None, **changes: Any) -> str:
    text = text if text is not None else evm_text()
    payload = {
        "address": EVM.address,
        "message": text,
        "signature": evm_signature(text),
        "timestamp": int(NOW.timestamp() * 1000),
        "chainId": 8453,
    }
    return encode({k: v for k, v in (payload | changes).items() if v is not None})


def sol_header(text: str | None = None, **changes: Any) -> str:
    text = text if text is not None else sol_text()
    payload = {
        "address": str(SOL.pubkey()),
        "message": text,
        "signature": str(SOL.sign_message(text.encode())),
        "timestamp": int(NOW.timestamp() * 1000),
        "chainId": SOLANA,
        "type": "ed25519",
    }
    return encode({k: v for k, v in (payload | changes).items() if v is not None})


async def sign_in(header: str, auth: SiwxAuthenticator | None = None) -> AccountId:
    principal = await (auth or authenticator()).authenticate({"sign-in-with-x": header}, CLIENT)
    assert principal is not None
    return principal.account


async def refused(header: str, auth: SiwxAuthenticator | None = None) -> str:
    with pytest.raises(Unauthenticated) as error:
        await sign_in(header, auth)
    return error.value.code.removeprefix("X402_SIGN_IN_")


@pytest.mark.parametrize("name", ["sign-in-with-x", "x-sign-in-with-x"])
async def test_an_evm_wallet_signs_in_and_its_account_is_its_lower_case_address(name: str) -> None:
    principal = await authenticator().authenticate({name: evm_header()}, CLIENT)
    assert principal is not None
    assert principal.account == EVM.address.lower()
    assert principal.wallet == WalletAddress(Family.EVM, EVM.address.lower())


async def test_a_solana_wallet_signs_in_and_its_account_keeps_its_case() -> None:
    assert await sign_in(sol_header()) == str(SOL.pubkey())


@pytest.mark.parametrize("chain", [8453, "8453", "eip155:8453", "base"])
async def test_every_spelling_of_the_evm_chain_is_accepted(chain: object) -> None:
    assert await sign_in(evm_header(chainId=chain))


@pytest.mark.parametrize("line", [SOLANA, SOLANA.removeprefix("solana:")])
@pytest.mark.parametrize("chain", [SOLANA, SOLANA.removeprefix("solana:"), "solana"])
async def test_every_spelling_of_the_solana_chain_is_accepted(line: str, chain: str) -> None:
    assert await sign_in(sol_header(sol_text(chain=line), chainId=chain))


async def test_a_solana_signature_may_be_base64() -> None:
    raw = bytes(SOL.sign_message(sol_text().encode()))
    assert await sign_in(sol_header(signature=base64.b64encode(raw).decode()))


@pytest.mark.parametrize("statement", ["", "\n", "\nWords, ümläuts and 😀\n"])
async def test_messages_with_and_without_a_statement_are_read(statement: str) -> None:
    assert await sign_in(evm_header(evm_text(statement=statement)))
    assert await sign_in(sol_header(sol_text(statement=statement)))


async def test_every_optional_line_is_read() -> None:
    tail = (
        f"\nExpiration Time: {stamp(NOW + timedelta(minutes=1))}\nNot Before: {stamp(NOW)}"
        "\nRequest ID: r-1\nResources:\n- https://a.example/b\n- ipfs://c"
    )
    assert await sign_in(evm_header(evm_text(tail=tail)))


@pytest.mark.parametrize("v", [0, 27])
async def test_both_numberings_of_v_are_accepted(v: int) -> None:
    raw = bytes.fromhex(evm_signature(evm_text())[2:])
    assert await sign_in(evm_header(signature="0x" + raw[:64].hex() + f"{(raw[64] - 27) + v:02x}"))


def flat(family: Family, **changes: Any) -> dict[str, Any]:
    """The x402 SDKs' payload; the server rebuilds the text."""
    payload = {
        "domain": "api.example.com",
        "address": EVM.address if family is Family.EVM else str(SOL.pubkey()),
        "statement": "Sign in",
        "uri": "https://api.example.com/api/v1/embeddings",
        "version": "1",
        "chainId": BASE if family is Family.EVM else SOLANA,
        "type": "eip191" if family is Family.EVM else "ed25519",
        "nonce": "abcdef0123456789",
        "issuedAt": stamp(NOW),
        "expirationTime": stamp(NOW + timedelta(minutes=5)),
    } | changes
    return {k: v for k, v in payload.items() if v is not None}


def flat_text(payload: Mapping[str, Any]) -> str:
    tail = f"\nExpiration Time: {payload['expirationTime']}" if "expirationTime" in payload else ""
    return (evm_text if payload["type"] == "eip191" else sol_text)(
        statement=f"\n{payload['statement']}\n"
        if "statement" in payload
        else "\n" * (payload["type"] == "eip191"),
        uri=payload["uri"],
        chain=payload["chainId"].partition(":")[2],
        tail=tail,
    )


@pytest.mark.parametrize("statement", [None, "Sign in"])
@pytest.mark.parametrize("family", list(Family))
async def test_the_flat_payload_of_the_x402_sdks_is_accepted(family: Family, statement: str | None) -> None:
    payload = flat(family, statement=statement)
    text = flat_text(payload)
    sign = evm_signature if family is Family.EVM else lambda t: str(SOL.sign_message(t.encode()))
    assert await sign_in(encode(payload | {"signature": sign(text)}))


async def test_a_changed_flat_field_breaks_the_signature() -> None:
    payload = flat(Family.EVM)
    signature = evm_signature(flat_text(payload))
    changed = payload | {"signature": signature, "uri": "https://evil.example"}
    assert await refused(encode(changed)) == "SIGNATURE"


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        (lambda: evm_header(evm_text(domain="evil.example.com")), "DOMAIN"),
        (lambda: evm_header(evm_text(domain="api.example.com@evil.com")), "DOMAIN"),
        (lambda: evm_header(evm_text(domain="evil.com#api.example.com")), "DOMAIN"),
        (lambda: evm_header(evm_text(version="2")), "VERSION"),
        (lambda: evm_header(evm_text(chain="1"), chainId=1), "CHAIN"),
        (lambda: evm_header(chainId=1), "MISMATCH"),
        (lambda: evm_header(type="ed25519"), "MISMATCH"),
        (lambda: sol_header(type="eip191"), "MISMATCH"),
        (lambda: evm_header(address="0x" + "22" * 20), "MISMATCH"),
        (lambda: sol_header(address=str(SOL.pubkey()).lower()), "MALFORMED"),
        (lambda: evm_header(evm_text(nonce="short12")), "NONCE"),
        (lambda: evm_header(evm_text(nonce="with-dash-1234")), "NONCE"),
        (
            lambda: evm_header(evm_text(issued=stamp(NOW - timedelta(minutes=5)), tail=""), timestamp=None),
            "TOO_OLD",
        ),
        (lambda: evm_header(evm_text(issued=stamp(NOW - timedelta(minutes=11))), timestamp=None), "TOO_OLD"),
        (lambda: evm_header(evm_text(issued=stamp(NOW + timedelta(seconds=31)))), "IN_FUTURE"),
        (lambda: evm_header(evm_text(tail=f"\nExpiration Time: {stamp(NOW)}")), "EXPIRED"),
        (
            lambda: evm_header(evm_text(tail=f"\nNot Before: {stamp(NOW + timedelta(seconds=1))}")),
            "NOT_YET_VALID",
        ),
        (lambda: evm_header(timestamp=int(NOW.timestamp() * 1000) - 30_001), "TIMESTAMP"),
        (lambda: evm_header(timestamp=int(NOW.timestamp())), "TIMESTAMP"),
        (lambda: evm_header(signature=evm_signature("another text")), "SIGNATURE"),
        (lambda: sol_header(signature=str(SOL.sign_message(b"another text"))), "SIGNATURE"),
        (lambda: evm_header(signature="0x"), "SIGNATURE"),
        (lambda: evm_header(signature=evm_signature(evm_text())[2:]), "SIGNATURE"),
        (lambda: evm_header(evm_text() + "\n"), "MESSAGE"),
        (lambda: evm_header(evm_text() + "\nAdmin: true"), "MESSAGE"),
        (lambda: evm_header(evm_text(issued="yesterday")), "MESSAGE"),
        (lambda: evm_header(evm_text(people="Bitcoin")), "MESSAGE"),
        (lambda: evm_header(evm_text(statement="\none\ntwo\n")), "MESSAGE"),
        (lambda: evm_header(evm_text().replace("\n", "\r\n")), "MESSAGE"),
        (lambda: evm_header(sol_text(people="Ethereum")), "MESSAGE"),
        (lambda: "", "MALFORMED"),
        (lambda: "not base64!", "MALFORMED"),
        (lambda: evm_header()[:-5], "MALFORMED"),
        (lambda: evm_header() + "A" * 20_000, "MALFORMED"),
        (lambda: encode([1, 2]), "MALFORMED"),
        (lambda: encode({"address": EVM.address}), "MALFORMED"),
        (lambda: evm_header(chainId=10**400), "MALFORMED"),
        (lambda: evm_header(chainId=True), "MALFORMED"),
        (lambda: encode(json.loads('{"a":' * 900 + "1" + "}" * 900)), "MALFORMED"),
    ],
)
async def test_each_rule_that_is_broken_is_named(header: Callable[[], str], rule: str) -> None:
    assert await refused(header()) == rule


async def test_a_ten_minute_sign_in_is_good_for_ten_minutes_and_one_without_expiry_for_five() -> None:
    long = evm_header(timestamp=None)
    assert await sign_in(long, authenticator(at=NOW + timedelta(minutes=9, seconds=59)))
    assert await refused(long, authenticator(at=NOW + timedelta(minutes=10))) == "EXPIRED"
    short = evm_header(evm_text(tail=""), timestamp=None)
    assert await sign_in(short, authenticator(at=NOW + timedelta(minutes=4, seconds=59)))
    assert await refused(short, authenticator(at=NOW + timedelta(minutes=5))) == "TOO_OLD"


@pytest.mark.parametrize(
    "domain",
    ["API.Example.com", "api.example.com:8443", "https://api.example.com", "http://api.example.com:1/x?y"],
)
async def test_scheme_port_and_path_of_the_domain_do_not_matter(domain: str) -> None:
    assert await sign_in(evm_header(evm_text(domain=domain)))


async def test_a_nonce_is_good_once_and_only_a_verified_signature_uses_it_up() -> None:
    auth = authenticator()
    assert await refused(evm_header(signature=evm_signature("x")), auth) == "SIGNATURE"
    assert await sign_in(evm_header(), auth)
    assert await refused(evm_header(), auth) == "REPLAYED"
    assert await sign_in(sol_header(), auth), "another wallet may use the same nonce"


async def test_a_nonce_is_remembered_though_the_clock_is_set_back() -> None:
    nonces, header = MemoryNonceStore(), evm_header(timestamp=None)
    assert await sign_in(header, authenticator(nonces=nonces))
    after = NOW + timedelta(minutes=10, seconds=20)
    later = sol_header(sol_text(issued=stamp(after), tail=""), timestamp=None)
    assert await sign_in(later, authenticator(nonces=nonces, at=after))
    assert (
        await refused(header, authenticator(nonces=nonces, at=NOW + timedelta(minutes=9, seconds=55)))
        == "REPLAYED"
    )


async def test_a_nonce_is_remembered_though_the_clock_was_ahead_for_a_moment() -> None:
    nonces, header = MemoryNonceStore(), evm_header(timestamp=None)
    assert await sign_in(header, authenticator(nonces=nonces))
    ahead = NOW + timedelta(hours=23)
    assert await sign_in(
        sol_header(sol_text(issued=stamp(ahead), tail=""), timestamp=None),
        authenticator(nonces=nonces, at=ahead),
    )
    assert await refused(header, authenticator(nonces=nonces)) == "REPLAYED"


async def test_of_many_concurrent_replays_one_is_let_in() -> None:
    auth = authenticator()
    outcomes = await asyncio.gather(*(sign_in(evm_header(), auth) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SignInRefused) for outcome in outcomes) == 7


async def test_a_second_signature_made_from_the_first_by_negating_s_is_refused() -> None:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    raw = bytes.fromhex(evm_signature(evm_text())[2:])
    s = order - int.from_bytes(raw[32:64], "big")
    twin = raw[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - raw[64]])
    assert await refused(evm_header(signature="0x" + twin.hex())) == "SIGNATURE"


@pytest.mark.parametrize("key", [bytes(32), bytes([1]) + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")])
async def test_a_solana_key_of_small_order_cannot_sign(key: bytes) -> None:
    """Under such a key, R = the identity and s = 0 satisfy the bare verification equation for any message."""
    text = sol_text(address=base58_encode(key))
    forged = base58_encode(bytes([1]) + bytes(31) + bytes(32))
    assert await refused(sol_header(text, address=base58_encode(key), signature=forged)) == "SIGNATURE"


async def test_no_sign_in_header_is_nobodys_business() -> None:
    assert await authenticator().authenticate({"authorization": "Bearer vtk_x"}, CLIENT) is None


async def test_a_contract_wallet_is_asked_only_after_the_cheap_checks() -> None:
    contract = SpyContract()
    auth = authenticator(contract=contract)
    for text, rule in (
        (evm_text(domain="evil.com"), "DOMAIN"),
        (evm_text(issued=stamp(NOW), tail=""), "TOO_OLD"),
    ):
        late = authenticator(contract=contract, at=NOW + timedelta(minutes=5))
        assert await refused(evm_header(text, signature="0x1234"), late) == rule
    assert await sign_in(evm_header(), auth)
    assert contract.asked == [], "a key pair's signature needs no chain"
    other = evm_text(nonce="othernonce123456")
    assert await sign_in(evm_header(other, signature="0x1234"), auth)
    assert contract.asked == [EVM.address.lower()]


async def test_a_contract_wallet_that_says_no_or_cannot_be_asked_is_401() -> None:
    bad = evm_header(signature="0x1234")
    assert await refused(bad, authenticator(contract=SpyContract(answer=False))) == "SIGNATURE"
    unreachable = authenticator(contract=SpyContract(answer=RpcUnavailable()))
    assert await refused(bad, unreachable) == "UNVERIFIABLE"


async def test_contract_checks_are_shared_out_by_client_never_by_wallet() -> None:
    contract = SpyContract(answer=False)
    auth = authenticator(contract=contract)
    bad = evm_header(signature="0x1234")
    for _ in range(CHECKS_PER_CLIENT.amount):
        assert await refused(bad, auth) == "SIGNATURE"
    with pytest.raises(RateLimited):
        await sign_in(bad, auth)
    assert len(contract.asked) == CHECKS_PER_CLIENT.amount
    contract.answer = True
    assert await auth.authenticate({"sign-in-with-x": bad}, "address:192.0.2.7"), "its owner, from elsewhere"


async def test_no_client_takes_more_than_a_tenth_of_all_contract_checks() -> None:
    contract = SpyContract(answer=False)
    wallets = ContractWallets(contract, MemoryRateLimiter())
    wallet = parse_wallet(EVM.address)
    for number in range(10):
        for _ in range(CHECKS_PER_CLIENT.amount):
            assert not await wallets.accepts(wallet, "text", "0x01", BASE, f"address:192.0.2.{number}")
    with pytest.raises(SignInRefused) as error:
        await wallets.accepts(wallet, "text", "0x01", BASE, "address:192.0.2.99")
    assert error.value.rule is SignInRule.UNVERIFIABLE
    assert len(contract.asked) == CHECKS_IN_ALL.amount


async def test_a_blocked_client_makes_the_server_ask_nobody() -> None:
    contract, limiter = SpyContract(), MemoryRateLimiter()
    wallets = ContractWallets(contract, limiter)
    await limiter.block("failures", "address:192.0.2.1", duration_s=30)
    with pytest.raises(RateLimited):
        await wallets.accepts(parse_wallet(EVM.address), "text", "0x01", BASE, "address:192.0.2.1")
    assert not contract.asked


async def _survives(header: str) -> None:
    with pytest.raises(Unauthenticated) as error:
        await authenticator().authenticate({"sign-in-with-x": header}, CLIENT)
    assert error.value.code.startswith("X402_SIGN_IN_")


@given(st.text(max_size=300))
async def test_any_header_text_is_401(header: str) -> None:
    await _survives(header)


@given(st.binary(max_size=300))
async def test_any_bytes_in_base64_are_401(data: bytes) -> None:
    await _survives(base64.b64encode(data).decode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [
    "address", "message", "signature", "timestamp", "chainId", "type", "domain", "uri", "version", "nonce",
    "issuedAt", "expirationTime", "notBefore", "requestId", "resources", "statement",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
async def test_any_json_in_any_field_is_401(changes: dict[str, Any]) -> None:
    await _survives(encode(flat(Family.EVM) | {"signature": "0x00"} | changes))
    await _survives(encode(json.loads(base64.b64decode(evm_header(signature="0x00"))) | changes))


LINES = st.integers(0, 11), st.text(max_size=40)


@given(*LINES)
async def test_any_line_of_the_message_may_be_anything(index: int, line: str) -> None:
    lines = evm_text().split("\n")
    lines[index % len(lines)] = line
    await _survives(
        encode({"address": EVM.address, "message": "\n".join(lines), "signature": "0x00", "chainId": 1})
    )


@given(
    st.text(alphabet="0123456789TZ:.+-", max_size=36) | st.datetimes().map(lambda d: d.isoformat() + "+23:59")
)
async def test_any_time_is_survived(text: str) -> None:
    for changes in (
        {"issued": text},
        {"tail": f"\nExpiration Time: {text}"},
        {"tail": f"\nNot Before: {text}"},
    ):
        await _survives(evm_header(evm_text(**changes), signature="0x00"))
