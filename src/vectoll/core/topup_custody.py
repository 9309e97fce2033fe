"""Whose an unsent payment is: this process's, another's that is at it, or nobody's."""

import asyncio
from collections.abc import Container, Coroutine
from datetime import timedelta
from typing import Any

from vectoll.core.topup_settle import Waiting
from vectoll.domain.payments import Intent, IntentState, PaymentId, PaymentInProgress
from vectoll.ports.clock import Clock

_LATEST = timedelta(seconds=15)
"""How long after its client's waiting time a process may still be at a payment: what its database takes."""


class Custody:
    """The payments that this process is settling, and those that it let go of. Contains the former."""

    def __init__(self, clock: Clock, waiting: Waiting, *, is_alone: bool) -> None:
        """``waiting`` is every process's; ``is_alone`` where no other one settles payments of the same store."""
        self._clock = clock
        self._longest = timedelta(seconds=waiting.timeout_s) + _LATEST
        self._is_alone = is_alone
        self._tasks: dict[PaymentId, asyncio.Task[Intent]] = {}
        self._left: dict[PaymentId, int] = {}
        """Let go of, for a database or a chain that fell silent; by the version that the claim wrote, or tried to."""

    def __contains__(self, payment: object) -> bool:
        return payment in self._tasks

    def take(
        self, payment: PaymentId, version: int, work: Coroutine[Any, Any, Intent]
    ) -> asyncio.Task[Intent]:
        """Run ``work``, which claims the payment under that version and settles it, to its end whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks[payment] = task

        def let_go(task: asyncio.Task[Intent]) -> None:
            del self._tasks[payment]
            if not task.cancelled() and not isinstance(task.exception(), PaymentInProgress | None):
                self._left[payment] = version

        task.add_done_callback(let_go)
        return task

    def is_nobodys(self, intent: Intent) -> bool:
        """Whether it was not sent, and nobody is about to: whoever changes its version first may."""
        if intent.id in self._tasks:
            return False
        match intent.state:
            case IntentState.RECEIVED:
                own_version = intent.version
            case IntentState.VERIFIED:
                own_version = intent.version - 1
            case _:
                return False
        is_stale = self._clock.now() - intent.updated_at > self._longest
        return self._is_alone or is_stale or self._left.get(intent.id) == own_version

    def forget_all_but(self, open_payments: Container[PaymentId]) -> None:
        """What is settled needs no owner."""
        self._left = {payment: version for payment, version in self._left.items() if payment in open_payments}

    async def close(self) -> None:
        """Wait for what is being settled."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
