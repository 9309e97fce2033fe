"""What deployments are called, the same for those who deploy and those who ask."""

import hashlib
import re

from vectoll.domain.ids import ModelId

NAMESPACE = "vectoll"
APP_PREFIX = "vectoll-"


def app_name(model: ModelId) -> str:
    """The Serve application of a model: its id where that is plain enough, else with a digest that keeps it apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", model)
    if plain != model:
        plain = f"{plain}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"
    return APP_PREFIX + plain


def route_prefix(model: ModelId) -> str:
    """The path of a model's replicas at the cluster's HTTP proxies."""
    return f"/{app_name(model)}"
