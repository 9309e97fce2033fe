"""The CPU engine of our own: encoders (BERT, XLM-RoBERTa) in C for AVX-512, with products in f32, bf16 or int8."""

from vectoll.adapters.engines.native.engine import (
    NativeEngine,
    is_faster,
    load_engine,
    missing_for_native,
    products_of,
)

__all__ = ["NativeEngine", "is_faster", "load_engine", "missing_for_native", "products_of"]
