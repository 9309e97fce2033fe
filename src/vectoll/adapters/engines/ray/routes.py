"""How a frame reaches some replica, and what can go wrong on the way."""

from typing import Protocol


class Route(Protocol):
    """One model's replicas. Each ``ask`` goes to one of them; a question may be asked twice, it changes nothing."""

    async def ask(self, question: bytes) -> bytes:
        """The answer frame. Raises Unreachable, Full or NotServed. Cancelling the await cancels the work."""
        ...

    async def close(self) -> None:
        """Free what is held. Nothing is asked afterwards."""
        ...


class RouteFailure(Exception):
    """The root. Says what happened in words of our own."""


class Unreachable(RouteFailure):
    """The replica died, or the way to it broke: another may answer."""


class Full(RouteFailure):
    """Too many wait already. Come back after ``retry_after_s`` seconds."""

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("full")
        self.retry_after_s = retry_after_s


NOT_DEPLOYED = "it is not deployed to the cluster"
"""Why a model is not served, by either route."""


class NotServed(RouteFailure):
    """No replica of the model is deployed there, or we may not ask it. Another cluster may have one."""
