"""The CPU engine of our own: encoders and decoders in C for AVX-512 and AVX2, in f32, bf16 or, encoders, int8."""

from vectoll.adapters.engines.native.engine import (
    NativeEngine,
    computes_in_f32,
    is_faster,
    load_engine,
    missing_for_native,
)

__all__ = ["NativeEngine", "computes_in_f32", "is_faster", "load_engine", "missing_for_native"]
