"""To replicas by Serve's handle: this process is a member of the Ray cluster.

Ray is imported and connected to on first use. It ends a process that cannot reach the cluster's head for a minute
(``RAY_gcs_rpc_server_reconnect_timeout_s``): a gateway that must outlive its cluster goes over HTTP.
"""

import asyncio
import logging
import os
import socket
import threading
from typing import Any

from vectoll.adapters.engines.ray.names import NAMESPACE, app_name
from vectoll.adapters.engines.ray.routes import NOT_DEPLOYED, Full, NotServed, Unreachable
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.ids import ModelId

CONNECT_TIMEOUT_S = 5

_UNREACHABLE = "its Ray cluster cannot be reached"
_connecting = threading.Lock()

log = logging.getLogger(__name__)


def connect(address: str) -> None:
    """Join the cluster, once for this process. Blocks. Raises NotServed, ConfigurationError.

    Not from the main thread of a server: there Ray would take over SIGTERM.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # noqa: PLC0415 - an extra, and a second of start-up
        from ray import serve  # noqa: F401, PLC0415 - sets up its logger, which is quieted below
    except ImportError:
        raise ConfigurationError(
            'setting engine.backend: ray needs pip install ".[ray]" in vectoll\'s checkout'
        ) from None
    for name in ("ray", "ray.serve"):  # else a line for every request that a replica's death delays
        logging.getLogger(name).setLevel(logging.ERROR)
    with _connecting:
        if ray.is_initialized():
            return
        if not _listens(address):
            raise NotServed(_UNREACHABLE)
        try:
            ray.init(
                address,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as failure:
            raise NotServed(_UNREACHABLE) from failure


def _listens(address: str) -> bool:
    """Whether somebody does, at ``host:port``: Ray itself asks for three minutes. True for ``auto`` and its like."""
    host, _, port = address.rpartition(":")
    if "//" in host or not (host and port.isdecimal()):
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError):
        return False
    return True


def open_handle(model: ModelId, address: str) -> "HandleRoute":
    """The route to a deployed model. Blocks. Raises NotServed."""
    try:
        connect(address)
    except NotServed as failure:
        log.warning("cluster_unreachable", extra={"reason": type(failure.__cause__ or failure).__name__})
        raise
    from ray import serve  # noqa: PLC0415
    from ray.serve.exceptions import RayServeException  # noqa: PLC0415

    try:
        handle = serve.get_app_handle(app_name(model))
    except RayServeException:
        raise NotServed(NOT_DEPLOYED) from None
    return HandleRoute(handle)


class HandleRoute:
    """Implements ``Route``. Serve picks a replica with room among two, and waits for one where none has."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is a ``ray.serve.handle.DeploymentHandle`` of an ``EngineReplica``."""
        from ray import exceptions, serve  # noqa: PLC0415

        self._method = handle.answer
        self._handle = handle
        self._back_pressure = serve.exceptions.BackPressureError
        self._deleted = serve.exceptions.DeploymentUnavailableError
        self._gone = serve.exceptions.ReplicaUnavailableError
        self._broken = (exceptions.RayError, serve.exceptions.RequestCancelledError)

    async def ask(self, question: bytes) -> bytes:
        """See ``Route``."""
        response = self._method.remote(question)
        try:
            answer = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except self._back_pressure:
            raise Full from None
        except self._deleted:
            raise NotServed(NOT_DEPLOYED) from None
        except self._gone:
            raise Unreachable("no replica is running") from None
        except self._broken as failure:
            raise Unreachable(type(failure).__name__) from None
        assert isinstance(answer, bytes)
        return answer

    async def close(self) -> None:
        """See ``Route``."""
        await self._handle.shutdown_async()
