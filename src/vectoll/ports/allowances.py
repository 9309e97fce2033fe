"""Who gets a daily allowance, and the one snapshot of stakes a day."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from vectoll.domain.allowances import DailyAllowance, Day, StakeSnapshot
from vectoll.domain.ids import AccountId
from vectoll.domain.money import Amount
from vectoll.domain.wallets import WalletAddress


class Allowances(Protocol):
    """Every method is atomic and safe to call concurrently; what returns is durable."""

    async def grant(self, account: AccountId, per_day: Amount) -> DailyAllowance:
        """Grant an account ``per_day`` from today on, in place of an earlier grant; 0 ends it.

        What has been spent today stays spent. Creates the account as needed. Raises Forbidden for a system account.
        """
        ...

    async def list(self) -> Sequence[DailyAllowance]:
        """Today's allowance of every account that has one, by account."""
        ...

    async def snapshot(self, day: Day) -> StakeSnapshot | None:
        """The day's snapshot, None where none was taken yet."""
        ...

    async def record(self, snapshot: StakeSnapshot, stakes: Mapping[AccountId, Amount]) -> bool:
        """Store the day's snapshot and grant what each stake gives, in one step.

        False, granting nothing, when the day has a snapshot already, whoever took it.
        """
        ...

    async def accounts(self) -> Sequence[AccountId]:
        """Every customer's account."""
        ...


class StakeReader(Protocol):
    """A chain on which tokens are staked. Every method raises RpcUnavailable when it does not answer."""

    async def block(self) -> int:
        """The newest block's number."""
        ...

    async def staked(self, wallet: WalletAddress, block: int) -> int:
        """What a wallet had staked as of that block, in base units of 18 decimals."""
        ...
