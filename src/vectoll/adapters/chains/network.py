"""Which chain an endpoint is of: asked when the server starts, and until it is known."""

import asyncio
import logging
from dataclasses import dataclass

from vectoll.adapters.chains.rpc import JsonRpc, reads_answers
from vectoll.domain.errors import ConfigurationError
from vectoll.ports.wallets import RpcUnavailable

_SOLANA_REFERENCE = 32
"""Characters of the genesis hash that CAIP-2 takes."""

_log = logging.getLogger("vectoll.chains")


@dataclass(slots=True)
class NetworkCheck:
    """One endpoint, the ``network`` that it should be of, and the settings' table that says both."""

    table: str
    network: str
    rpc: JsonRpc
    is_done: bool = False
    is_told: bool = False
    """Whether the log says that it does not answer."""

    async def run(self) -> bool:
        """Ask once: whether it has answered. Raises ConfigurationError for the wrong chain."""
        try:
            found = await _network_of(self.rpc, is_evm=self.network.startswith("eip155:"))
        except RpcUnavailable as error:
            if not self.is_told:
                what = {"setting": f"{self.table}.rpc_url", "reason": str(error)}
                _log.warning("chain_unreachable", extra=what)
            self.is_told = True
            return False
        self.is_done = True
        if found != self.network:
            raise ConfigurationError(
                f"{self.table}.rpc_url is an endpoint of {found}, and {self.table}.network is {self.network}"
            )
        return True

    async def repeat(self, interval_s: float) -> None:
        """Until it has answered, ask again every ``interval_s``; the wrong chain is then an error's line."""
        while not self.is_done:
            await asyncio.sleep(interval_s)
            try:
                if await self.run():
                    _log.info("chain_answers", extra={"setting": f"{self.table}.rpc_url"})
            except ConfigurationError as error:
                _log.error("wrong_chain", extra={"reason": str(error)})


@reads_answers
async def _network_of(rpc: JsonRpc, *, is_evm: bool) -> str:
    """Its CAIP-2 id: ``eip155:8453``, ``solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp``. Raises RpcUnavailable."""
    if is_evm:
        return f"eip155:{int(await rpc.call('eth_chainId'), 16)}"
    return f"solana:{(await rpc.call('getGenesisHash'))[:_SOLANA_REFERENCE]}"
