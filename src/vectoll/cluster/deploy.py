"""Deploys, lists and deletes the models of a Ray cluster. Every call blocks, and belongs on the main thread."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from msgspec.structs import replace
from ray import serve

from vectoll.adapters.engines.ray.by_handle import connect
from vectoll.adapters.engines.ray.names import APP_PREFIX, app_name, route_prefix
from vectoll.adapters.engines.ray.opening import checked_secret
from vectoll.adapters.engines.ray.routes import NotServed
from vectoll.cluster.placement import Needs
from vectoll.cluster.replica import EngineReplica, Load, ReplicaPlan
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.errors import VectollError
from vectoll.domain.ids import ModelId
from vectoll.engines import load_engine
from vectoll.settings import ClusterSettings, Settings

POLL_S = 0.5

log = logging.getLogger(__name__)

HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # five, on a busy machine, end in a loop of restarts
}
"""HTTP goes through HAProxy straight to the replicas: a tenth of the CPU of Serve's own proxy, measured. A
replica that leaves waits these seconds for HAProxy to hear of it.
"""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model on the cluster."""

    name: str
    """The model's id; the application's name where no model of the settings has it."""
    state: str
    """Ray Serve's word: DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING."""
    replicas: dict[str, int]
    """How many replicas are in each of Serve's states."""
    message: str

    @property
    def is_running(self) -> bool:
        """Whether it serves with all that was deployed."""
        return self.state == "RUNNING"


class DeploymentFailed(VectollError):
    """A model did not come up. The replicas that were there before keep serving."""


def join(cluster: ClusterSettings) -> None:
    """Connect this process to the cluster. Raises VectollError."""
    try:
        connect(cluster.address)
    except NotServed:
        raise VectollError(
            f"no Ray cluster at cluster.address {cluster.address!r}: start one with "
            "`ray start --head --disable-usage-stats`, or name its address"
        ) from None


def fits_some_node(wanted: Needs) -> bool:
    """Whether a node of the cluster, were it empty, has room for one such replica."""
    return any(
        node["Resources"].get("CPU", 0) >= wanted.cpus
        and node["Resources"].get("GPU", 0) >= wanted.gpus
        and node["Resources"].get("memory", 0) >= wanted.memory_bytes
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    )


def deploy(spec: ModelSpec, wanted: Needs, settings: Settings, load: Load = load_engine) -> None:
    """Begin to deploy a model, or to replace its replicas one after the other; ``wait`` says how it went.

    What is in flight on a replica that is replaced is finished first, for at most ``drain_timeout_s``.
    """
    cluster = settings.cluster
    secret = checked_secret(cluster)
    _start_serve(cluster, has_http=secret is not None)
    plan = _plan(spec, settings, secret)
    engine = serve.deployment(name="engine", **_options(settings, wanted))(EngineReplica)
    target = serve.RunTarget(
        engine.bind(plan, load),
        name=app_name(spec.id),
        route_prefix=route_prefix(spec.id) if secret else None,
    )
    serve.run_many([target], wait_for_applications_running=False)


def _start_serve(cluster: ClusterSettings, *, has_http: bool) -> None:
    """Once for a cluster; where Serve runs already it stays as it is."""
    if not has_http:
        serve.start(proxy_location="Disabled")
        return
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options={"host": cluster.http_host, "port": cluster.http_port},
            controller_options={"runtime_env": {"env_vars": HAPROXY}},
        )
    except ray.exceptions.RayError as failure:
        # Serve runs, and starts its proxies again: ``wait`` waits for one
        log.warning("proxies_late", extra={"reason": type(failure).__name__})


def _plan(spec: ModelSpec, settings: Settings, secret: str | None) -> ReplicaPlan:
    """Only what a replica needs leaves this machine: above all no wallet's key."""
    engine = settings.engine
    if not (engine.streams or engine.cores):
        engine = replace(engine, cores=max(1, int(settings.cluster.replica_cpus)))
    digest = hashlib.sha256(secret.encode()).digest() if secret else b""
    return ReplicaPlan(spec, engine, settings.queue, settings.tracing, digest)


def _options(settings: Settings, wanted: Needs) -> dict[str, Any]:
    cluster = settings.cluster
    env_vars = HAPROXY if cluster.secret else {}
    return {
        "ray_actor_options": wanted.actor_options() | {"runtime_env": {"env_vars": env_vars}},
        "max_ongoing_requests": cluster.max_ongoing_requests,
        "max_queued_requests": cluster.max_queued_requests,
        "backpressure_config": {"retry_after_s": 1.0},
        "autoscaling_config": {
            "min_replicas": cluster.min_replicas,
            "max_replicas": cluster.max_replicas,
            "target_ongoing_requests": cluster.target_ongoing_requests,
            "upscale_delay_s": cluster.upscale_delay_s,
            "downscale_delay_s": cluster.downscale_delay_s,
        },
        "max_surge_percent": cluster.surge_percent,
        "graceful_shutdown_timeout_s": settings.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5.0,
        "max_constructor_retry_count": 3,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }


def wait(models: Sequence[ModelId], timeout_s: float, tell: Callable[[ModelStatus], None]) -> None:
    """Block until all of them run, telling ``tell`` of every change. Raises DeploymentFailed for one that does not."""
    names = {app_name(model): model for model in models}
    told: dict[str, ModelStatus] = {}
    deadline = time.monotonic() + timeout_s
    while True:
        states = {name: found for name, found in _states(names) if name in names}
        for name, found in states.items():
            if told.get(name) != found:
                told[name] = found
                tell(found)
        failed = next((s for s in states.values() if s.state == "DEPLOY_FAILED"), None)
        if failed:
            raise DeploymentFailed(f"model {failed.name!r} was not deployed: {failed.message}")
        if len(states) == len(names) and all(found.is_running for found in states.values()) and _has_proxy():
            return
        if time.monotonic() > deadline:
            slow: list[str] = [names[n] for n in names if n not in states or not states[n].is_running]
            slow = slow or ["the HTTP proxies (is HAProxy of an earlier cluster still there?)"]
            raise DeploymentFailed(f"not running after {timeout_s:g} s: {', '.join(slow)}")
        time.sleep(POLL_S)


def _has_proxy() -> bool:
    """Whether HTTP is served where it is to be."""
    states = [str(getattr(state, "value", state)) for state in serve.status().proxies.values()]
    return not states or "HEALTHY" in states


def status(models: Sequence[ModelId]) -> list[ModelStatus]:
    """Every model that is deployed, with the names of those in ``models``."""
    return [found for _, found in _states({app_name(model): model for model in models})]


def _states(names: dict[str, ModelId]) -> Iterator[tuple[str, ModelStatus]]:
    for name, app in sorted(serve.status().applications.items()):
        if name.startswith(APP_PREFIX):
            replicas = {
                str(getattr(state, "value", state)): count
                for deployment in app.deployments.values()
                for state, count in deployment.replica_states.items()
            }
            state = str(getattr(app.status, "value", app.status))
            messages = [app.message, *(deployment.message for deployment in app.deployments.values())]
            yield name, ModelStatus(names.get(name, name), state, replicas, "\n".join(filter(None, messages)))


def delete(model: str) -> bool:
    """Take a model, or an application by the name that ``status`` gave, off the cluster. Whether it was there.

    What is in flight is finished first.
    """
    name = model if model.startswith(APP_PREFIX) else app_name(ModelId(model))
    if name not in serve.status().applications:
        return False
    serve.delete(name)
    return True
