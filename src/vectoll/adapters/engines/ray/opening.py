"""From settings to a backend that reaches the cluster."""

from vectoll.adapters.engines.ray.backend import NO_MARKS, ClusterBackend, Onward, Tuning, untraced
from vectoll.adapters.engines.ray.marks import Marks
from vectoll.adapters.engines.ray.routes import NotServed, Route
from vectoll.domain.catalog import ModelSpec
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.settings import ClusterSettings, QueueSettings

MIN_SECRET = 16
"""Characters."""


def open_cluster_backend(
    spec: ModelSpec,
    cluster: ClusterSettings,
    queue: QueueSettings,
    onward: Onward = untraced,
    marks: Marks = NO_MARKS,
) -> ClusterBackend:
    """Blocks while it connects. Raises ModelOffline, or ConfigurationError for a setting that is wrong."""
    tuning = Tuning(
        part_tokens=cluster.part_tokens,
        parts_in_flight=cluster.parts_in_flight,
        max_queued=cluster.max_queued_requests,
        max_wait_s=queue.max_wait_s,
        timeout_s=cluster.timeout_s,
    )
    return ClusterBackend(spec, _route(spec, cluster), tuning, onward, marks)


def _route(spec: ModelSpec, cluster: ClusterSettings) -> Route:
    if cluster.route == "http":
        from vectoll.adapters.engines.ray.by_http import HttpRoute  # noqa: PLC0415

        secret = checked_secret(cluster)
        if secret is None:
            raise ConfigurationError("setting cluster.secret: route http needs one")
        return HttpRoute(spec.id, cluster.urls, secret, 64 + 4 * spec.dims * cluster.part_tokens)
    from vectoll.adapters.engines.ray.by_handle import open_handle  # noqa: PLC0415

    try:
        return open_handle(spec.id, cluster.address)
    except NotServed as problem:
        raise ModelOffline(spec.id, str(problem)) from None


def checked_secret(cluster: ClusterSettings) -> str | None:
    """The secret, None for none. Raises ConfigurationError for one that could be guessed or not be a header."""
    secret = cluster.secret
    if secret and (len(secret) < MIN_SECRET or not secret.isascii() or not secret.isprintable()):
        raise ConfigurationError(
            f"setting cluster.secret: must be {MIN_SECRET} or more printable ASCII characters"
        )
    return secret or None
