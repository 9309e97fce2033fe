"""Contract wallets sign in, judged by a real chain: EIP-1271 deployed, ERC-6492 not deployed yet."""

from collections.abc import AsyncIterator, Iterator

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import encode_defunct
from tests.chains.anvil import Anvil, call_data, run_anvil

from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.adapters.wallets.contracts import ContractWallets
from vectoll.domain.siwx import BASE
from vectoll.domain.wallets import WalletAddress, parse_wallet
from vectoll.ports.wallets import RpcUnavailable

OWNER = Account.from_key("0x" + "33" * 32)
TEXT = "api.example.com wants you to sign in with your Ethereum account:\n…"
SIGNATURE = bytes(OWNER.sign_message(encode_defunct(text=TEXT)).signature)


@pytest.fixture(scope="module")
def chain() -> Iterator[Anvil]:
    with run_anvil() as chain:
        yield chain


@pytest.fixture
async def wallets(chain: Anvil) -> AsyncIterator[ContractWallets]:
    rpc = JsonRpc(chain.url)
    yield ContractWallets({BASE: rpc})
    await rpc.close()


async def ask(
    wallets: ContractWallets, wallet: str | WalletAddress, signature: bytes, text: str = TEXT
) -> bool:
    wallet = parse_wallet(wallet) if isinstance(wallet, str) else wallet
    return await wallets.is_accepted_by(wallet, text, f"0x{signature.hex()}", BASE)


async def test_a_deployed_wallet_is_asked_itself(chain: Anvil, wallets: ContractWallets) -> None:
    wallet = chain.deploy("Wallet", "address", OWNER.address)
    assert await ask(wallets, wallet, SIGNATURE)
    assert not await ask(wallets, wallet, SIGNATURE, text="another text")
    assert not await ask(wallets, wallet, SIGNATURE[:-1])
    assert not await ask(wallets, chain.deploy("Wallet", "address", chain.deploy("Factory")), SIGNATURE)


async def test_an_address_without_code_accepts_nothing(wallets: ContractWallets) -> None:
    assert not await ask(wallets, OWNER.address, SIGNATURE)
    assert not await ask(wallets, OWNER.address, b"\x01" * 100)


async def test_a_contract_that_is_no_wallet_accepts_nothing(chain: Anvil, wallets: ContractWallets) -> None:
    assert not await ask(wallets, chain.deploy("Factory"), SIGNATURE)


def wrap(factory: str, deployment: str, signature: bytes) -> bytes:
    arguments = [factory, bytes.fromhex(deployment[2:]), signature]
    return encode(["address", "bytes", "bytes"], arguments) + bytes.fromhex("6492" * 16)


async def test_a_wallet_that_is_not_deployed_is_deployed_in_the_question_only(
    chain: Anvil, wallets: ContractWallets
) -> None:
    factory = chain.deploy("Factory")
    found = chain.rpc(
        "eth_call",
        {"to": factory, "data": call_data("Factory", "addressOf(address)", OWNER.address)},
        "latest",
    )
    wallet = f"0x{found[-40:]}"
    deployment = call_data("Factory", "deploy(address)", OWNER.address)
    assert await ask(wallets, wallet, wrap(factory, deployment, SIGNATURE))
    assert not await ask(wallets, wallet, wrap(factory, deployment, SIGNATURE), text="another text")
    other = call_data("Factory", "deploy(address)", factory)
    assert not await ask(wallets, wallet, wrap(factory, other, SIGNATURE))
    assert chain.rpc("eth_getCode", wallet, "latest") == "0x"
    chain.send(factory, deployment)
    assert await ask(wallets, wallet, wrap(factory, deployment, SIGNATURE)), "deployed meanwhile: still good"


@pytest.mark.parametrize("body", [b"", b"\xff" * 96, b"\x00" * 95, (2**255).to_bytes(32, "big") * 3])
async def test_a_broken_wrapping_is_a_plain_no(wallets: ContractWallets, body: bytes) -> None:
    assert not await ask(wallets, OWNER.address, body + bytes.fromhex("6492" * 16))


async def test_a_silent_node_is_no_answer() -> None:
    rpc = JsonRpc("http://127.0.0.1:1")
    with pytest.raises(RpcUnavailable):
        await ask(ContractWallets({BASE: rpc}), OWNER.address, SIGNATURE)
    await rpc.close()
