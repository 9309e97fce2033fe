"""The CPU engine: OpenVINO graphs built straight from a checkpoint's weights, one builder per family."""

from vectoll.adapters.engines.openvino.engine import OpenVinoEngine, Precision, computes_in_f32, load_engine

__all__ = ["OpenVinoEngine", "Precision", "computes_in_f32", "load_engine"]
