"""vectoll as its users run it: the installed command, in processes of its own, on a real socket."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner, Result

from vectoll.cli.root import cli

COMMAND = Path(sys.executable).with_name("vectoll")
START_TIMEOUT_S = 60
MODEL = "all-MiniLM-L6-v2"
DIMS = 384
UNITS_PER_TOKEN = 12_500
"""The price of ``MODEL``: $0.0125 per million tokens, in units of 10⁻¹² USD."""


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as `vectoll keys create` prints it, once."""

    id: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


@dataclass(frozen=True, slots=True)
class Charge:
    """One entry of /billing/usage-history."""

    request_id: str
    amount: Decimal
    tokens: int


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answered /ready."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def client(self, key: Key | None = None, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=key.headers if key else None, timeout=60, **options)

    def async_client(self, key: Key, connections: int = 100) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=connections)
        return httpx.AsyncClient(base_url=self.url, headers=key.headers, timeout=60, limits=limits)

    def charges(self, key: Key) -> list[Charge]:
        """The account's whole usage history, page by page, as positive dollars."""
        charges: list[Charge] = []
        with self.client(key) as client:
            query = {"pageSize": "100"}
            while query:
                answer = client.get("/api/v1/billing/usage-history", params=query)
                assert answer.status_code == 200, answer.text
                page = json.loads(answer.text, parse_float=Decimal)
                for entry in page["data"]:
                    details = entry["inferenceDetails"]
                    charges.append(Charge(details["requestId"], -entry["amount"], details["promptTokens"]))
                query = {"cursor": page["nextCursor"]} if page["nextCursor"] else {}
        return charges

    async def metric(self, name: str) -> float:
        """One of /metrics, of the default model."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"{self.url}/metrics")).text
        found = re.search(rf'^{name}{{model="{MODEL}"}} (\S+)', text, re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    async def until_queued(self, is_enough: Callable[[float], bool]) -> None:
        """Until the number of waiting tokens is as wanted, for at most 10 seconds."""
        async with asyncio.timeout(10):
            while not is_enough(await self.metric("vectoll_queue_tokens")):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL: no drain, no flush."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.process.send_signal(signal.SIGTERM)


class Vectoll:
    """One installation: a data directory, a vectoll.toml, and the commands that use them."""

    def __init__(self, home: Path, config: str = "", **settings: object) -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / "vectoll.toml").write_text(config)
        self.home = home
        self.data_dir = home / "data"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("VECTOLL_")},
            **{f"VECTOLL_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def run(self, *arguments: str, timeout_s: float = 60) -> str:
        """What one command prints. Fails the test, with its error output, when the command fails."""
        done = self.try_run(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"vectoll {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def try_run(self, *arguments: str, timeout_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """One command that may fail."""
        return subprocess.run(
            [COMMAND, *arguments, "--data-dir", self.data_dir],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What one command prints with --json; decimal numbers stay exact."""
        return json.loads(self.run(*arguments, "--json"), parse_float=Decimal)

    def create_key(self, credit_usd: str = "5", *options: str) -> Key:
        created = json.loads(
            self._run_here("keys", "create", "--name", "test", "--credit-usd", credit_usd, *options, "--json")
        )
        return Key(created["id"], created["key"])

    def verify(self) -> None:
        """Fails the test when `vectoll ledger verify` finds anything."""
        self._run_here("ledger", "verify")

    def _run_here(self, *arguments: str) -> str:
        """``run`` without a process, whose start takes half a second: for what nearly every test does."""

        def invoke() -> Result:
            ours = {name: None for name in os.environ if name.startswith("VECTOLL_")}
            environ = ours | {name: x for name, x in self.environment.items() if name.startswith("VECTOLL_")}
            command = [*arguments, "--data-dir", str(self.data_dir)]
            with chdir(self.home):
                return CliRunner().invoke(cli, command, env=environ, prog_name="vectoll")

        with ThreadPoolExecutor(1) as thread:  # a test's own event loop may be running
            result = thread.submit(invoke).result()
        assert result.exit_code == 0, f"vectoll {' '.join(arguments)}: {result.output}"
        return result.stdout

    @contextmanager
    def serve(self, *options: str, is_usable: bool = True) -> Iterator[Server]:
        """`vectoll serve` on a free port, ready, or (not ``is_usable``) started without a model. Terminated on exit;
        its log is attached to what went wrong.
        """
        server = self._start(options, "ready" if is_usable else "unavailable")
        try:
            yield server
        except BaseException as error:
            error.add_note(f"server log:\n{_tail(server.log)}")
            raise
        finally:
            _stop(server.process)

    def _start(self, options: tuple[str, ...], status: str) -> Server:
        log = self.home / "server.log"
        out = self.home / "server.out"
        with log.open("wb") as errors, out.open("wb") as output:
            process = subprocess.Popen(
                [COMMAND, "serve", "--port", "0", "--data-dir", self.data_dir, *options],
                env={**self.environment, "PYTHONUNBUFFERED": "1"},
                cwd=self.home,
                stdout=output,
                stderr=errors,
            )
        try:
            return Server(process, _wait_until(status, process, out, log), log)
        except BaseException:
            _stop(process)
            raise

    @property
    def banner(self) -> str:
        """What the last start printed for people."""
        return (self.home / "server.out").read_text()


def _wait_until(status: str, process: "subprocess.Popen[bytes]", out: Path, log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if (url := _address(out.read_text())) and _status(url) == status:
            return url
        time.sleep(0.02)
    raise AssertionError(f"vectoll serve did not get ready (exit code {process.poll()}):\n{_tail(log)}")


def _address(banner: str) -> str | None:
    found = re.search(r"http://[\d.]+:\d+", banner)
    return found.group() if found else None


def _status(url: str) -> str | None:
    """What /ready says; None while nothing answers."""
    try:
        status: str = httpx.get(f"{url}/ready", timeout=5).json()["status"]
    except httpx.TransportError:
        return None
    return status


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-40:])
