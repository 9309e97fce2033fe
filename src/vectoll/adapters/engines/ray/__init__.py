"""Engines on a Ray cluster: what a gateway needs to reach them. The replicas themselves: ``vectoll.cluster``."""

from vectoll.adapters.engines.ray.marks import marks_of
from vectoll.adapters.engines.ray.opening import open_cluster_backend

__all__ = ["marks_of", "open_cluster_backend"]
