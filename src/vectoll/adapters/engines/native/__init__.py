"""The CPU engine of our own: encoders (BERT, XLM-RoBERTa) in C for AVX-512, with products in f32 or bf16."""

from vectoll.adapters.engines.native.engine import (
    NativeEngine,
    computes_in_f32,
    is_faster,
    load_engine,
    missing_for_native,
)

__all__ = ["NativeEngine", "computes_in_f32", "is_faster", "load_engine", "missing_for_native"]
