"""One serving process, from its lock to its last answer."""

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import structlog
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from vectoll.bootstrap import has_ledger, lock_data_dir, open_services, open_store
from vectoll.domain.errors import ConfigurationError, Unusable
from vectoll.http.app import Application
from vectoll.http.cors import allow_origins
from vectoll.http.services import Phase, Readiness, Services
from vectoll.http.tracing import TracingMiddleware
from vectoll.ports.clock import SystemClock
from vectoll.server.accepting import Acceptor
from vectoll.server.connection import Connection
from vectoll.server.descriptors import allow_open_files
from vectoll.server.freed_memory import give_back_after_bursts
from vectoll.server.welcome import open_development_account, prepare_development_key, welcome
from vectoll.settings import Settings

BACKLOG = 2048
FEW_FILES = 4096
"""Below so many open files, an operator is told: each connection is one."""
CANCEL_GRACE_S = 1
"""How long requests that outlive the drain may take to notice that they are cancelled."""
COLLECT_OLDER_EVERY_S, COLLECT_ALL_EVERY_S = 10, 600
"""Seconds between two searches for cycles among objects that outlived one, and among all that are not there for good;
among new ones every second. A search holds the event loop: 0.4 ms for a thousand objects, 1 ms for a MiB of token ids.
A hundred thousand callers within a minute leave 300,000, in their limits.
"""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("vectoll.server.serving")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP. Raises ConfigurationError before anything is served."""
    files = allow_open_files()
    if files < FEW_FILES:
        log.warning("few_open_files", limit=files)
    most_connections = files * 7 // 8  # the rest is for the ledger, providers and replicas
    with lock_data_dir(settings), _listen(settings) as listener:
        secret = None
        if not settings.database.url:  # gateways on one database are no place to try things out
            secret = prepare_development_key(Path(settings.data_dir), is_first_start=not has_ledger(settings))
        uvloop.run(_serve(settings, listener, secret, most_connections))


def _listen(settings: Settings) -> socket.socket:
    """A bound socket: a port that is taken is known before a model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigurationError(f"setting host: {settings.host!r}: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        why = os.strerror(error.errno) if error.errno else str(error)
        raise Unusable(f"cannot listen on {settings.host} port {settings.port}: {why}") from None
    return listener


async def _serve(
    settings: Settings, listener: socket.socket, secret: str | None, most_connections: int
) -> None:
    clock = SystemClock()
    async with open_store(settings, clock) as store, open_services(settings, store, clock) as services:
        if secret and not await open_development_account(secret, store.keys, store.ledger, clock):
            secret = None
        server = _Server(settings, services, listener, secret, most_connections)
        admission = services.admission
        giving_back = asyncio.create_task(give_back_after_bursts(lambda: admission.bytes_in_flight))
        try:
            await server.serve(sockets=[listener])
        finally:
            giving_back.cancel()
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, with a drain: on a signal it goes on listening, and says at /ready that nothing more should come,
    until what is in flight is done or ``drain_timeout_s`` has passed.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        listener: socket.socket,
        secret: str | None,
        most_connections: int,
    ) -> None:
        super().__init__(_uvicorn_config(settings, services, most_connections))
        self._settings = settings
        self._services = services
        self._listener = listener
        self._secret = secret
        self._drained_by: float | None = None

    @property
    def _readiness(self) -> Readiness:
        return self._services.readiness

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell the operator and whoever asks /ready."""
        await super().startup(sockets)
        self._acceptor = Acceptor(self._listener, self._make_protocol)
        _spare_the_collector()
        self._readiness.phase = Phase.READY
        host, port = self._listener.getsockname()[:2]
        log.info("ready", host=host, port=port, process=os.getpid())
        _tell_supervisor("READY=1")
        models = self._services.models
        text = welcome(
            _base_url(host, port),
            self._secret,
            [spec.id for spec in models.usable],
            models.why_none,
            colors=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
        )
        with suppress(OSError):  # a disk that is full, a reader that has gone: it serves all the same
            print(text, flush=True)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's, and SIGHUP: a terminal that is closed. `nohup` has it ignored, and so it stays."""
        with super().capture_signals():
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, self.handle_exit)
            yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """The first signal starts the drain, the second ends it."""
        if self._drained_by is not None:
            self.should_exit = self.force_exit = True
            return
        self._readiness.phase = Phase.DRAINING
        _tell_supervisor("STOPPING=1")
        self._drained_by = time.monotonic() + self._settings.drain_timeout_s

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop listening and close what is left; asked ten times a second."""
        second, tenth = divmod(counter, 10)
        if not tenth:
            for connection in list(self.server_state.connections):
                cast(Connection, connection).pass_time(1.0)
            gc.collect(_generation_due(second))
        if await super().on_tick(counter):
            return True
        if self._drained_by is None:
            return False
        return not self.server_state.tasks or time.monotonic() >= self._drained_by

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer those who still wait for vectors: 503, uncharged. Then close what is left."""
        gc.enable()  # no tick follows
        await self._services.models.close()
        self._acceptor.close()
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        """What uvicorn serves a connection with."""
        make: Any = self.config.http_protocol_class
        protocol: asyncio.Protocol = make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _tell_supervisor(state: str) -> None:
    """sd_notify(3): how a systemd unit of Type=notify learns of it. Without such a supervisor nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            log.warning("supervisor_not_listening", reason=error.strerror)


def _spare_the_collector() -> None:
    """Keep the cycle collector away from what stays for good, and let it come by the clock (``_Server.on_tick``).

    By itself it comes after so many allocations, and walks what all requests in flight hold: the more there are, the
    more often, though hardly a request leaves a cycle. What one leaves may be small in objects and large in bytes, and
    must not wait for others.
    """
    gc.collect()
    gc.freeze()
    gc.disable()


def _generation_due(second: int) -> int:
    """The oldest that is to be searched."""
    if second % COLLECT_ALL_EVERY_S == 0:
        return 2
    return 0 if second % COLLECT_OLDER_EVERY_S else 1


def _application(settings: Settings, services: Services) -> ASGIApp:
    app: ASGIApp = Application(services)
    if services.tracer:
        app = TracingMiddleware(app, services.tracer)
    return allow_origins(app, settings.http.cors_origins) if settings.http.cors_origins else app


def _uvicorn_config(settings: Settings, services: Services, most_connections: int) -> uvicorn.Config:
    return uvicorn.Config(
        cast("Any", _BehindProxy(_application(settings, services), settings.forwarded_allow_ips)),
        interface="asgi3",
        http=cast("Any", partial(Connection, most_connections=most_connections)),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=CANCEL_GRACE_S,
    )


class _BehindProxy:
    """uvicorn's reading of X-Forwarded-*, for requests that have one: for others it would be a step at every turn."""

    def __init__(self, app: ASGIApp, trusted: str) -> None:
        self._app = app
        self._forwarded: Any = ProxyHeadersMiddleware(cast("Any", app), trusted)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The application's own coroutine, or one around it."""
        has_come_through = any(name.startswith(b"x-forwarded-") for name, _ in scope["headers"])
        answered: Awaitable[None] = (self._forwarded if has_come_through else self._app)(scope, receive, send)
        return answered


def _base_url(host: str, port: int) -> str:
    """An address that works on this machine, also when the server listens on all of them."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"
