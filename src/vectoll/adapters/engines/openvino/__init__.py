"""The CPU engine: OpenVINO graphs built straight from a checkpoint's weights, one builder per family."""

from vectoll.adapters.engines.openvino.engine import OpenVinoEngine, computes_in_f32, load_engine

__all__ = ["OpenVinoEngine", "computes_in_f32", "load_engine"]
