"""The processes of a small deployment, each watched over and started again as soon as it is gone."""

import asyncio
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from benchmarks.faults.client import Gateway
from tests.live import COMMAND
from tests.postgres import PR_SET_PDEATHSIG, PostgresServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600.0
"""Until a process is ready, or something moves: the machine may stand still for minutes."""
PORTS = range(20_000, 30_000)
"""Below those that the system gives to outgoing connections, so that a port is free again when its owner is back."""
DISK_BYTES = 384 * 2**20


@dataclass
class Part:
    """One process that is always started again, as a supervisor would."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str]
    home: Path
    url: str
    gateway: Gateway | None = None
    violations: list[str] = field(default_factory=list)
    starts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _was_told: bool = False

    async def run(self) -> None:
        """Until it is cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                await self._live(session)

    async def _live(self, session: aiohttp.ClientSession) -> None:
        """One process from start to end."""
        self.starts += 1
        self._was_told = False
        with (self.home / f"{self.name}.log").open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *map(str, self.command), env=self.environment, cwd=ROOT, stdout=log, stderr=log,
                preexec_fn=die_with_parent,
            )  # fmt: skip
        ending = asyncio.create_task(process.wait())
        try:
            while not ending.done() and not await _answers(session, f"{self.url}/ready"):
                await asyncio.wait({ending}, timeout=0.05)
            was_ready = not ending.done()
            if was_ready and not self._was_told:
                self._up()
            await ending
            if was_ready and not self._was_told:
                self.violations.append(f"{self.name} ended by itself, with {process.returncode}")
        finally:
            self._down()
            if process.returncode is None:
                process.kill()
            await ending

    def _up(self) -> None:
        self._is_ready.set()
        if self.gateway:
            self.gateway.is_up = True

    def _down(self) -> None:
        self._is_ready.clear()
        if self.gateway and self.gateway.is_up:
            self.gateway.is_up = False
            self.gateway.incarnation += 1

    def defects(self) -> list[str]:
        """What its log says about errors that nobody expected."""
        lines = (self.home / f"{self.name}.log").read_text(errors="replace").splitlines()
        return [line for line in lines if "unexpected_error" in line]

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._is_ready.wait()

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Without a warning, unless it is SIGTERM."""
        self._was_told = True
        self._down()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(how)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


@dataclass
class Database:
    """PostgreSQL on a disk of its own, where the system lets us mount one."""

    server: PostgresServer
    disk: Path | None

    def bring_back(self) -> None:
        """Start it however it ended; what is left of the one before may take a moment to go."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.server.start()
            except AssertionError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.2)
            else:
                return

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.server.stop(how)

    def kill_backend(self, pid: int) -> None:
        """kill -9 of a process of the server's."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    @property
    def is_alive(self) -> bool:
        return self.server.is_running

    def fill(self) -> None:
        """No byte more can be written."""
        assert self.disk is not None
        with suppress(OSError), (self.disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(2**16))
                filler.flush()

    def make_room(self) -> None:
        assert self.disk is not None
        (self.disk / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system of its own, in memory; None where this process may not mount one."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    place = Path(tempfile.mkdtemp(prefix="vectoll-disk-"))
    try:
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=755", "tmpfs", str(place)]
        if (
            not mount
            or not umount
            or subprocess.run([mount, *options], capture_output=True, check=False).returncode
        ):
            yield None
            return
        try:
            yield place
        finally:
            subprocess.run([umount, "-l", str(place)], check=True)
    finally:
        with suppress(OSError):
            place.rmdir()


def free_port(rng: random.Random) -> int:
    """One that nobody listens on."""
    while True:
        port = rng.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def replica(name: str, port: int, secret: str, home: Path) -> Part:
    """An engine replica with the real model."""
    command = [sys.executable, "-m", "benchmarks.faults.replica", "--port", str(port), "--secret", secret]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("VECTOLL_")}
    return Part(name, command, environment, home, f"http://127.0.0.1:{port}")


def gateway(name: str, port: int, environment: Mapping[str, str], home: Path) -> Part:
    """`vectoll serve`; its settings are in the environment."""
    data_dir = home / name
    data_dir.mkdir()
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [COMMAND, "serve", "--port", str(port), "--data-dir", data_dir]
    return Part(name, command, environment, home, url, Gateway(url, is_up=False))


def die_with_parent() -> None:
    """However this process ends, none of its parts stays behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
