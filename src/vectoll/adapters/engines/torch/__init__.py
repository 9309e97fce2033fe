"""The engine for accelerators: torch with packed, padding-free sequences. The extra ``vectoll[cuda]`` installs it."""

from vectoll.adapters.engines.torch.engine import TorchEngine, load_engine

__all__ = ["TorchEngine", "load_engine"]
