"""The run: callers without a pause, harm at random moments, and the books held against it in between."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.books import Books, check_payments, compare, read_postgres
from benchmarks.faults.callers import Crowd, Payer
from benchmarks.faults.client import Client, open_session
from benchmarks.faults.crowd import PAY_TO, gather
from benchmarks.faults.parts import PATIENCE_S
from benchmarks.faults.town import Town, build_town

SETTLED_S = 90.0
"""Until the books must be right once nobody calls: what was given up is settled every five seconds."""

WHOLE_AGAIN = 0.3
"""How often the next harm waits until everything is whole; else it may come on top of the last."""


@dataclass(frozen=True)
class Plan:
    """How much harm. The seed decides what happens and in which order; when exactly is up to the machine."""

    seed: int
    kills: int
    harms: int
    """Of the other kinds, spread over the run; each kind in turn."""
    check_every: int = 25
    """Harms of both kinds between two looks at the books."""
    pause_s: float = 0.15
    most_s: float = math.inf
    """After which nothing new is broken."""


@dataclass
class Report:
    """What was done and what came of it."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    harms: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    purchases: int = 0
    books: dict[str, int] = field(default_factory=dict)
    brought_back: int = 0
    """Answers that had been charged for and not arrived, which their Idempotency-Key brought, for nothing more."""
    payments: int = 0
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        requests = sum(sum(counts.values()) for counts in self.statuses.values())
        verdict = "failed" if self.violations else "passed"
        return {**vars(self), "requests": requests, "verdict": verdict}


async def run(plan: Plan, home: Path, tell: Callable[[str], None]) -> Report:
    """All of it. ``tell`` hears how far it has come."""
    rng = random.Random(plan.seed)
    began = time.monotonic()
    async with build_town(home, rng) as town, open_session() as session:
        gateways = [part.gateway for part in town.gateways if part.gateway]
        client = Client(gateways, session, plan.seed)
        await client.learn()
        crowd, payer = await asyncio.to_thread(gather, town.operator, town.world, plan.pause_s)
        tell(f"ready after {time.monotonic() - began:.0f} s")
        suite = Suite(plan, town, client, crowd, payer, Report(plan.seed), rng, tell)
        await suite.run()
        suite.report.seconds = round(time.monotonic() - began, 1)
        return suite.report


@dataclass
class Suite:
    """One run in a town."""

    plan: Plan
    town: Town
    client: Client
    crowd: Crowd
    payer: Payer
    report: Report
    rng: random.Random
    tell: Callable[[str], None]

    async def run(self) -> None:
        todo = list(self._plan())
        give_up_at = time.monotonic() + self.plan.most_s
        for start in range(0, len(todo), self.plan.check_every):
            if time.monotonic() > give_up_at:
                return
            is_over = asyncio.Event()
            calling = asyncio.create_task(self.crowd.run(self.client, f"{self.plan.seed} {start}", is_over))
            try:
                for name in todo[start : start + self.plan.check_every]:
                    await self._harm(name)
                    if calling.done() or time.monotonic() > give_up_at:
                        break
                await self.town.until_whole()
            finally:
                is_over.set()
                await calling
            await self._check()

    def _plan(self) -> Iterator[str]:
        """Kills of each part in turn, and the other kinds spread among them."""
        kills, harms = list(self.town.kills()), list(self.town.harms())
        self.rng.shuffle(harms)
        owed = 0.0
        done = 0
        for n in range(self.plan.kills):
            yield kills[n % len(kills)]
            owed += self.plan.harms / self.plan.kills
            while done < round(owed):
                yield harms[done % len(harms)]
                done += 1

    async def _harm(self, name: str) -> None:
        """One harm at a random moment. Callers have had answers since the last; not everything is whole every time."""
        await asyncio.sleep(self.rng.uniform(0, 0.3))
        kills = self.town.kills()
        if name in kills:
            await kills[name]()
            self.report.kills[name] += 1
        else:
            await self.town.harms()[name]()
            self.report.harms[name] += 1
        if self.rng.random() < WHOLE_AGAIN:
            await self.town.until_whole()
        await self._until_answers(3)

    async def _until_answers(self, count: int) -> None:
        """It goes on by itself."""
        wanted = self.client.delivered + count
        give_up_at = time.monotonic() + PATIENCE_S
        while self.client.delivered < wanted:
            if time.monotonic() > give_up_at:
                raise AssertionError(f"no answers any more after {dict(self.report.kills)}")
            await asyncio.sleep(0.05)

    async def _check(self) -> None:
        """Nobody calls: are the books right, can what was paid be had, and are they right after that?"""
        await self._settled()
        books = await self._books()
        for purchase in books.to_retry:
            status = await self.client.buy("second try", purchase)
            if status != 200:
                self.client.violations.append(f"paid for, and {status} on the second try")
        self.report.brought_back += len(books.to_retry)
        after = await self._books()
        if (after.charges, after.retryable) != (books.charges, 0):
            self.client.violations.append("a second try was charged")
        verified = await asyncio.to_thread(self.town.operator.try_run, "ledger", "verify")
        if verified.returncode:
            self.client.violations.append(f"ledger verify: {verified.stdout[-2000:]}")
        self.report.checks += 1
        self._write_down(after)

    async def _books(self) -> Books:
        """With what is wrong about payments, too."""
        ledger = await read_postgres(self.town.database_url)
        books = compare(self.client.purchases, ledger)
        moved = await asyncio.to_thread(self.town.world.chain.usdc, PAY_TO)
        books.violations += check_payments(self.payer.credited, moved, ledger)
        self.report.payments = len(self.payer.credited)
        return books

    async def _settled(self) -> None:
        """Until the books are right, for so long."""
        give_up_at = time.monotonic() + SETTLED_S
        while (problems := (await self._books()).violations) and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        for problem in problems:
            self.tell(problem)

    def _write_down(self, books: Books) -> None:
        report = self.report
        report.books = {
            name: getattr(books, name) for name in ("charges", "charged", "refunded", "delivered", "in_doubt")
        }
        report.purchases = len(self.client.purchases)
        report.statuses = {kind: dict(counts) for kind, counts in self.client.statuses.items()}
        report.violations = [*self.client.violations, *self.town.violations, *books.violations]
        self.tell(
            f"{report.kills.total()} kills, {report.harms.total()} other harms, {report.purchases} purchases, "
            f"{books.charges} charges, {report.brought_back} brought back, {len(report.violations)} violations"
        )
