"""Contract wallets sign in, judged by a real chain: EIP-1271 deployed, ERC-6492 not deployed yet."""

from collections.abc import AsyncIterator, Iterator

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from tests.chains.anvil import Anvil, call_data, erc6492, run_anvil
from tests.ledger import FixedClock

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.limiter import MemoryRateLimiter
from vectoll.adapters.storage.memory_wallets import MemoryNonceStore
from vectoll.adapters.wallets.contracts import Eip1271Verifier
from vectoll.adapters.wallets.evm import EvmSignatureVerifier
from vectoll.core.wallet_keys import WalletKeys
from vectoll.core.wallet_signatures import CHECKS_PER_CLIENT, ContractWallets, WalletSignatures
from vectoll.domain.errors import RateLimited
from vectoll.domain.siwx import BASE, SignInRefused
from vectoll.domain.wallets import Family, WalletAddress, parse_wallet
from vectoll.ports.wallets import RpcUnavailable

CLIENT = "address:192.0.2.1"
OWNER = Account.from_key("0x" + "33" * 32)
TEXT = "api.example.com wants you to sign in with your Ethereum account:\n…"
SIGNATURE = bytes(OWNER.sign_message(encode_defunct(text=TEXT)).signature)


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        yield chain


@pytest.fixture
async def wallets(chain: Anvil) -> AsyncIterator[Eip1271Verifier]:
    rpc = JsonRpc(chain.url)
    yield Eip1271Verifier({BASE: rpc})
    await rpc.close()


async def ask(
    wallets: Eip1271Verifier, wallet: str | WalletAddress, signature: bytes, text: str = TEXT
) -> bool:
    wallet = parse_wallet(wallet) if isinstance(wallet, str) else wallet
    return await wallets.is_accepted_by(wallet, text, f"0x{signature.hex()}", BASE)


async def test_a_deployed_wallet_is_asked_itself(chain: Anvil, wallets: Eip1271Verifier) -> None:
    wallet = chain.deploy("Wallet", "address", OWNER.address)
    assert await ask(wallets, wallet, SIGNATURE)
    assert not await ask(wallets, wallet, SIGNATURE, text="another text")
    assert not await ask(wallets, wallet, SIGNATURE[:-1])
    assert not await ask(wallets, chain.deploy("Wallet", "address", chain.deploy("Factory")), SIGNATURE)


async def test_an_address_without_code_accepts_nothing(wallets: Eip1271Verifier) -> None:
    assert not await ask(wallets, OWNER.address, SIGNATURE)
    assert not await ask(wallets, OWNER.address, b"\x01" * 100)


async def test_a_contract_that_is_no_wallet_accepts_nothing(chain: Anvil, wallets: Eip1271Verifier) -> None:
    assert not await ask(wallets, chain.deploy("Factory"), SIGNATURE)


def undeployed(chain: Anvil) -> tuple[str, str, str]:
    """A wallet's address before it is there, the factory that makes it, and the call that does."""
    factory = chain.deploy("Factory")
    asked = {"to": factory, "data": call_data("Factory", "addressOf(address)", OWNER.address)}
    address = f"0x{chain.rpc('eth_call', asked, 'latest')[-40:]}"
    return address, factory, call_data("Factory", "deploy(address)", OWNER.address)


async def test_a_wallet_that_is_not_deployed_is_deployed_in_the_question_only(
    chain: Anvil, wallets: Eip1271Verifier
) -> None:
    wallet, factory, deployment = undeployed(chain)
    assert await ask(wallets, wallet, erc6492(factory, deployment, SIGNATURE))
    assert not await ask(wallets, wallet, erc6492(factory, deployment, SIGNATURE), text="another text")
    other = call_data("Factory", "deploy(address)", factory)
    assert not await ask(wallets, wallet, erc6492(factory, other, SIGNATURE))
    assert chain.rpc("eth_getCode", wallet, "latest") == "0x"
    chain.send(factory, deployment)
    assert await ask(wallets, wallet, erc6492(factory, deployment, SIGNATURE)), (
        "deployed meanwhile: still good"
    )


WON_OVER = "60203610601b57600054631626ba7e60e01b0260005260206000f35b600160005500"
"""A wallet that says yes to everything once anybody has called it with less than 32 bytes."""


async def test_a_wallet_that_is_there_is_asked_without_the_callers_own_call_before(
    chain: Anvil, wallets: Eip1271Verifier
) -> None:
    wallet = "0x" + "3e" * 20
    chain.rpc("anvil_setCode", wallet, f"0x{WON_OVER}")
    assert not await ask(wallets, wallet, erc6492(wallet, "0x00", SIGNATURE))
    chain.send(wallet, "0x00")
    assert await ask(wallets, wallet, erc6492(wallet, "0x00", SIGNATURE)), "what it says by itself counts"


@pytest.mark.parametrize("body", [b"", b"\xff" * 96, b"\x00" * 95, (2**255).to_bytes(32, "big") * 3])
async def test_a_broken_wrapping_is_a_plain_no(wallets: Eip1271Verifier, body: bytes) -> None:
    assert not await ask(wallets, OWNER.address, body + bytes.fromhex("6492" * 16))


async def test_a_silent_node_is_no_answer() -> None:
    rpc = JsonRpc("http://127.0.0.1:1")
    with pytest.raises(RpcUnavailable):
        await ask(Eip1271Verifier({BASE: rpc}), OWNER.address, SIGNATURE)
    await rpc.close()


@pytest.fixture
def keys(wallets: Eip1271Verifier) -> WalletKeys:
    return make_keys(ContractWallets(wallets, MemoryRateLimiter()))


def make_keys(contracts: ContractWallets) -> WalletKeys:
    signatures = WalletSignatures({Family.EVM: EvmSignatureVerifier()}, contracts)
    return WalletKeys("api.example.com", signatures, MemoryNonceStore(), FixedClock(), [BASE])


def sign(text: str) -> bytes:
    return bytes(OWNER.sign_message(encode_defunct(text=text)).signature)


async def refused(keys: WalletKeys, wallet: str, token: str, signature: bytes) -> str:
    with pytest.raises(SignInRefused) as error:
        await keys.redeem(wallet, token, f"0x{signature.hex()}", CLIENT)
    return error.value.code.removeprefix("X402_SIGN_IN_")


async def test_a_deployed_contract_wallet_makes_itself_a_key_once(chain: Anvil, keys: WalletKeys) -> None:
    wallet = chain.deploy("Wallet", "address", OWNER.address)
    token = keys.challenge()
    assert await refused(keys, wallet, token, sign("another text")) == "SIGNATURE"
    principal = await keys.redeem(wallet, token, f"0x{sign(token).hex()}", CLIENT)
    assert principal.account == wallet.lower()
    assert await refused(keys, wallet, token, sign(token)) == "REPLAYED"


async def test_a_contract_wallet_that_is_not_deployed_makes_itself_a_key(
    chain: Anvil, keys: WalletKeys
) -> None:
    wallet, factory, deployment = undeployed(chain)
    token = keys.challenge()
    assert await refused(keys, wallet, token, sign(token)) == "SIGNATURE"
    principal = await keys.redeem(
        wallet, token, f"0x{erc6492(factory, deployment, sign(token)).hex()}", CLIENT
    )
    assert principal.account == wallet.lower()


async def test_keys_and_sign_ins_share_the_budget_of_questions(chain: Anvil, keys: WalletKeys) -> None:
    wallet, token = chain.deploy("Wallet", "address", OWNER.address), keys.challenge()
    budgeted, bad = keys._signatures._contracts, b"\x01" * 65
    assert budgeted is not None
    for _ in range(CHECKS_PER_CLIENT.amount - 1):
        assert not await budgeted.accepts(parse_wallet(wallet), token, "0x01", BASE, CLIENT)
    assert await refused(keys, wallet, token, bad) == "SIGNATURE"
    with pytest.raises(RateLimited):
        await keys.redeem(wallet, token, f"0x{sign(token).hex()}", CLIENT)
    principal = await keys.redeem(wallet, token, f"0x{sign(token).hex()}", "address:192.0.2.2")
    assert principal.account == wallet.lower()


async def test_no_key_is_made_where_the_chain_is_silent() -> None:
    rpc = JsonRpc("http://127.0.0.1:1")
    budgeted = ContractWallets(Eip1271Verifier({BASE: rpc}), MemoryRateLimiter())
    keys = make_keys(budgeted)
    assert await refused(keys, OWNER.address, keys.challenge(), b"\x01" * 65) == "UNVERIFIABLE"
    await rpc.close()
