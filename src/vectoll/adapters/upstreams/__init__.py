"""Models whose vectors are bought: OpenAI and every server that speaks its protocol, and Gemini."""

from vectoll.adapters.upstreams.build import build_upstream
from vectoll.adapters.upstreams.model import UpstreamModel

__all__ = ["UpstreamModel", "build_upstream"]
