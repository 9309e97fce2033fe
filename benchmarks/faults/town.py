"""Two gateways, PostgreSQL and two replicas as real processes, and all that can be done to them."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.faults.crowd import World, make_world
from benchmarks.faults.parts import Database, Part, free_port, gateway, replica, small_disk
from tests.chains.anvil import run_anvil
from tests.cuttable import CuttableProxy
from tests.live import Vectoll
from tests.postgres import execute, run_postgres

SECRET = "what gateways and replicas share"
FULL_S = 4.0
"""How long a disk stays full."""
GATEWAYS = "application_name = 'vectoll'"


@dataclass
class Town:
    """All of it, running."""

    operator: Vectoll
    """Its commands reach the database directly."""
    database_url: str
    world: World
    database: Database
    proxies: list[CuttableProxy]
    gateways: list[Part]
    replicas: list[Part]
    rng: random.Random

    @property
    def parts(self) -> list[Part]:
        """What is watched over."""
        return [*self.gateways, *self.replicas]

    @property
    def violations(self) -> list[str]:
        return [problem for part in self.parts for problem in (*part.violations, *part.defects())]

    async def until_whole(self) -> None:
        """Every process is ready."""
        await asyncio.gather(*(part.until_ready() for part in self.parts))

    def kills(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """kill -9, by what it hits."""
        return {
            "gateway 1": self._killer(self.gateways[0]),
            "replica 1": self._killer(self.replicas[0]),
            "gateway 2": self._killer(self.gateways[1]),
            "replica 2": self._killer(self.replicas[1]),
            "postgres": self.kill_database,
        }

    def harms(self) -> Mapping[str, Callable[[], Awaitable[None]]]:
        """Everything else that happens to a deployment."""

        harms = {
            "connections terminated": self.terminate_connections,
            "connections reset": self.reset_connections,
            "network cut": self.cut_network,
            "answers of the database lost": self.lose_answers,
            "postgres restarted": self.restart_database,
            "postgres backend killed": self.kill_backend,
            "gateway stopped": self.stop_gateway,
        }
        return harms | ({"disk full": self.fill_disk} if self.database.disk else {})

    def _killer(self, part: Part) -> Callable[[], Awaitable[None]]:
        async def kill() -> None:
            await part.until_ready()  # what is not there yet cannot be killed
            await asyncio.sleep(self.rng.uniform(0, 0.3))
            part.end()

        return kill

    async def kill_database(self) -> None:
        await asyncio.to_thread(self.database.kill)
        await asyncio.sleep(self.rng.choice((0, 0, 1, 3)))
        await asyncio.to_thread(self.database.bring_back)

    async def restart_database(self) -> None:
        how = self.rng.choice((signal.SIGINT, signal.SIGQUIT))
        await asyncio.to_thread(self.database.kill, how)
        await asyncio.to_thread(self.database.bring_back)

    async def terminate_connections(self) -> None:
        await execute(
            self.database_url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {GATEWAYS}"
        )

    async def kill_backend(self) -> None:
        """kill -9 of a process that serves one connection: the server throws all of them out, and recovers."""
        rows = await execute(self.database_url, f"SELECT pid FROM pg_stat_activity WHERE {GATEWAYS}")
        if rows:
            self.database.kill_backend(self.rng.choice(rows)[0])

    async def reset_connections(self) -> None:
        for proxy in self.proxies:
            await proxy.reset()

    async def cut_network(self) -> None:
        """One gateway, or both, without a database for a moment, longer than it is waited for at times."""
        cut = self.rng.choice((self.proxies, self.proxies[:1], self.proxies[1:]))
        for proxy in cut:
            await proxy.cut()
        await asyncio.sleep(self.rng.choice((0.2, 1, 4)))
        for proxy in cut:
            await proxy.open()

    async def lose_answers(self) -> None:
        """The database does what it is told, and nobody hears of it."""
        proxy = self.rng.choice(self.proxies)
        proxy.mute()
        await asyncio.sleep(self.rng.choice((0.2, 1, 4)))
        await proxy.reset()

    async def stop_gateway(self) -> None:
        """SIGTERM."""
        self.rng.choice(self.gateways).end(signal.SIGTERM)

    async def fill_disk(self) -> None:
        """For a while; then there is room again."""
        await asyncio.to_thread(self.database.fill)
        try:
            await asyncio.sleep(FULL_S)
        finally:
            self.database.make_room()
        if not self.database.is_alive:
            await asyncio.to_thread(self.database.bring_back)


def through(proxy: CuttableProxy, url: str) -> str:
    """The same database, by another way."""
    return urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl()


@asynccontextmanager
async def build_town(home: Path, rng: random.Random) -> AsyncIterator[Town]:
    """Everything ready. Nothing is left afterwards."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk())
        server = stack.enter_context(run_postgres(parent=disk))
        world = make_world(stack.enter_context(run_anvil()), home)
        database_url = server.new_database()
        operator = Vectoll(home / "operator", config="", **world.settings(), database__url=database_url)
        operator.run("db", "migrate")
        proxies = [CuttableProxy(server.port), CuttableProxy(server.port)]
        for proxy in proxies:
            await proxy.open()
        replicas = [replica(f"replica {n + 1}", free_port(rng), SECRET, home) for n in range(2)]
        gateways = [
            gateway(
                f"gateway {n + 1}",
                free_port(rng),
                environment_of(world, home, through(proxy, database_url), replicas),
                home,
            )
            for n, proxy in enumerate(proxies)
        ]
        town = Town(operator, database_url, world, Database(server, disk), proxies, gateways, replicas, rng)
        running = [asyncio.create_task(part.run()) for part in town.parts]
        try:
            await town.until_whole()
            yield town
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for proxy in proxies:
                await proxy.cut()


def environment_of(world: World, home: Path, database_url: str, replicas: list[Part]) -> Mapping[str, str]:
    """A gateway's."""
    urls = ", ".join(f'"{part.url}"' for part in replicas)
    return Vectoll(
        home / "gateways",
        config="",
        **world.settings(),
        database__url=database_url,
        database__timeout_s=2,
        engine__backend="ray",
        cluster__route="http",
        cluster__urls=f"[{urls}]",
        cluster__secret=SECRET,
    ).environment
