"""Signatures of wallets that are contracts: EIP-1271, and ERC-6492 for those that are not deployed yet."""

from collections.abc import Mapping

from vectoll.adapters.chains.evm import call_data, erc6492_of
from vectoll.adapters.chains.rpc import JsonRpc, RpcError
from vectoll.adapters.chains.secp256k1 import eip191_digest
from vectoll.adapters.wallets.evm import hex_bytes
from vectoll.domain.wallets import WalletAddress
from vectoll.ports.wallets import RpcUnavailable

_MAGIC = bytes.fromhex("1626ba7e")
_GAS = 5_000_000


class Eip1271Verifier:
    """Asks the chain that the message names. One call each, never a transaction."""

    def __init__(self, rpcs: Mapping[str, JsonRpc]) -> None:
        """``rpcs`` by CAIP-2 id."""
        self._rpcs = rpcs

    async def is_accepted_by(self, wallet: WalletAddress, text: str, signature: str, chain: str) -> bool:
        """Whether the contract answers EIP-1271's magic value. Raises RpcUnavailable."""
        raw, rpc = hex_bytes(signature), self._rpcs.get(chain)
        if not raw or rpc is None:
            return False
        digest = eip191_digest(text.encode())
        try:
            wrapped = erc6492_of(raw)
        except ValueError:
            return False
        if wrapped is None:
            data = call_data("isValidSignature(bytes32,bytes)", digest, tail=raw)
            return await _says_yes(rpc, {"to": wallet.text, "data": f"0x{data.hex()}"})
        check = call_data("isValidSignature(bytes32,bytes)", digest, tail=wrapped.signature)
        program = deploy_then_ask(wrapped.factory, wrapped.deployment, wallet.raw, check)
        return await _says_yes(rpc, {"data": f"0x{program.hex()}"})


async def _says_yes(rpc: JsonRpc, call: Mapping[str, str]) -> bool:
    try:
        answer = await rpc.call("eth_call", {**call, "gas": hex(_GAS)}, "latest")
    except RpcError as error:
        if error.is_revert:
            return False
        raise
    raw = hex_bytes(answer) if isinstance(answer, str) else None
    if raw is None:
        raise RpcUnavailable("the answer is not hex")
    return len(raw) >= 32 and raw[:32] == _MAGIC + bytes(28)


def deploy_then_ask(factory: bytes, deployment: bytes, wallet: bytes, check: bytes) -> bytes:
    """A program for an ``eth_call`` without recipient: deploys the wallet, asks it, and returns its word.

    A wallet that is there is asked as it is. The call to the factory is the caller's, who could have it do something
    first that makes somebody else's wallet say yes: borrow what owns it, or sign for it. Deployment and question happen
    in one simulated call, and nothing is left behind. Written in opcodes: it is shorter than the contract that others
    send for this, and nothing of it has to be taken on trust.
    """
    head = 137  # the bytes of the code itself, in front of the data
    ask = 75  # where it goes on when there is nothing to deploy
    answer = max(len(deployment), len(check))  # memory behind both, which is zero until the wallet answers
    code = b"".join(
        (
            b"\x73" + wallet + b"\x3b" + _push(ask) + b"\x57",  # if EXTCODESIZE(wallet): go to ask
            _copy(len(deployment), head),  # memory[0:] = deployment
            _push(0) * 2 + _push(len(deployment)) + _push(0) * 2,  # no output, all of it as input, no value
            b"\x73" + factory + b"\x5a\xf1\x50",  # CALL(gas, factory, …); whether it worked shows next
            b"\x5b",  # ask:
            _copy(len(check), head + len(deployment)),  # memory[0:] = check
            _push(32) + _push(answer) + _push(len(check)) + _push(0),
            b"\x73" + wallet + b"\x5a\xfa",  # STATICCALL(gas, wallet, …): 1, or 0 if it reverted
            _push(answer) + b"\x51\x02",  # times its answer
            _push(0) + b"\x52" + _push(32) + _push(0) + b"\xf3",  # is what is returned
        )
    )
    assert (len(code), code[ask]) == (head, 0x5B)
    return code + deployment + check


def _push(value: int) -> bytes:
    """PUSH2: all sizes here are below 64 KB."""
    return b"\x61" + value.to_bytes(2, "big")


def _copy(size: int, offset: int) -> bytes:
    """CODECOPY(0, offset, size)."""
    return _push(size) + _push(offset) + _push(0) + b"\x39"
