"""What a setting may be beyond its type. Pure: nothing is looked up, opened or asked."""

import ipaddress
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from vectoll.domain.siwx import host_of
from vectoll.domain.urls import is_http_url
from vectoll.settings.tree import ClusterSettings, ModelSettings, Settings

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")

Fault = tuple[str, str]
"""The setting, and what it must be. Repeats no value that may hold a secret."""


def faults(settings: Settings) -> Iterator[Fault]:
    """Everything that is wrong, at the top first."""
    for name, number in _numbers(settings):
        if not math.isfinite(number):
            yield name, "must be a finite number"
    public_url = settings.public_url
    if public_url is not None and not (is_http_url(public_url) and host_of(public_url)):
        yield "public_url", "must be a URL such as https://api.example.com"
    for proxy in filter(None, map(str.strip, settings.forwarded_allow_ips.split(","))):
        if settings.forwarded_allow_ips.strip() != "*" and not _is_network(proxy):
            yield (
                "forwarded_allow_ips",
                f"{proxy!r} is not an IP address or network; * alone trusts every proxy",
            )
    for origin in settings.http.cors_origins:
        if not _ORIGIN.fullmatch(origin):
            yield "http.cors_origins", f"{origin!r} is not an origin such as https://a.example; * is any"
    for domain in settings.siwx.domains:
        if not _HOST.fullmatch(host_of(domain) or ""):
            yield "siwx.domains", "must be host names, e.g. api.example.com"
    if settings.tracing.endpoint is not None and not is_http_url(settings.tracing.endpoint):
        yield "tracing.endpoint", "must be a URL such as http://127.0.0.1:4318"
    for index, model in enumerate(settings.models):
        yield from _of_model(f"models[{index}]", model)
    yield from _of_cluster(settings.cluster, is_used=settings.engine.backend == "ray")


def _of_model(name: str, model: ModelSettings) -> Iterator[Fault]:
    for field, ids in (("id", (model.id,)), ("aliases", model.aliases or ())):
        for each in ids:
            if not each or not each.isprintable() or each != each.strip():
                yield (
                    f"{name}.{field}",
                    f"{each!r} is not an id: it must be printable, with no spaces around it",
                )


def _of_cluster(cluster: ClusterSettings, *, is_used: bool) -> Iterator[Fault]:
    if cluster.min_replicas > cluster.max_replicas:
        why = f"{cluster.min_replicas} is more than cluster.max_replicas, {cluster.max_replicas}"
        yield "cluster.min_replicas", why
    if not all(map(is_http_url, cluster.urls)):
        yield "cluster.urls", "must be URLs such as http://ray.example:8000"
    if is_used and cluster.route == "http":
        for field, value in (("urls", cluster.urls), ("secret", cluster.secret)):
            if not value:
                yield f"cluster.{field}", "must be set when cluster.route is http"


def _numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    for name in node.__struct_fields__:
        value = getattr(node, name)
        if isinstance(value, msgspec.Struct):
            yield from _numbers(value, f"{path}{name}.")
        elif isinstance(value, float):
            yield f"{path}{name}", value
        elif name == "models":
            for index, model in enumerate(value):
                yield from _numbers(model, f"models[{index}].")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
