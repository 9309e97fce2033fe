"""Stakes of a token on an EVM chain: ``stakedInfos(address)``, whose first word is the amount."""

from vectoll.adapters.chains.evm import call_data
from vectoll.adapters.chains.rpc import JsonRpc
from vectoll.domain.wallets import WalletAddress
from vectoll.ports.wallets import RpcUnavailable

_ANSWER_BYTES = 96
"""amountStaked, coolDownEnd, coolDownAmount: what cools down is staked no more."""


class EvmStakes:
    """See ``vectoll.ports.allowances.StakeReader``."""

    def __init__(self, rpc: JsonRpc, token: str) -> None:
        self._rpc = rpc
        self._token = token

    async def block(self) -> int:
        """The newest block's number."""
        return int.from_bytes(_bytes(await self._rpc.call("eth_blockNumber")), "big")

    async def staked(self, wallet: WalletAddress, block: int) -> int:
        """What was staked after that block. A contract that refuses or answers too little is unknown, not zero."""
        data = call_data("stakedInfos(address)", wallet.text)
        call = {"to": self._token, "data": f"0x{data.hex()}"}
        answer = _bytes(await self._rpc.call("eth_call", call, hex(block)))
        if len(answer) < _ANSWER_BYTES:
            raise RpcUnavailable("the contract does not answer stakedInfos")
        return int.from_bytes(answer[:32], "big")


def _bytes(answer: object) -> bytes:
    """A hex answer; a quantity may have an odd number of digits."""
    if isinstance(answer, str) and answer.startswith("0x"):
        digits = answer[2:]
        try:
            return bytes.fromhex(digits.rjust(len(digits) + len(digits) % 2, "0"))
        except ValueError:
            pass
    raise RpcUnavailable("the answer is not hex")
