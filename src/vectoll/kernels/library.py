"""The compiled kernels, where the package was built with them and this CPU can run them."""

import ctypes
import functools
import zlib
from pathlib import Path
from typing import Literal, get_args

SOURCES = Path(__file__).with_name("sources")
LIBRARY = Path(__file__).with_name("_kernels.so")

F32, BF16, AMX_BF16, INT8, F32_AVX2 = 1, 2, 4, 8, 16
"""Bits of ``capabilities``: which kernels this CPU can run, and whether it has AMX, which is faster."""

ENCODER, DECODER = 0, 1
"""Kinds of ``Tower``."""

PREFIX_BLOCK = 4
"""Tokens in a block of a ``Prefix``."""

Products = Literal["f32", "bf16", "int8", "f32_avx2"]
"""What products are computed in: the precision, and the instructions where they are not AVX-512's."""
PRODUCTS: tuple[Products, ...] = get_args(Products)


class Layer(ctypes.Structure):
    """``struct layer``."""

    _fields_ = [
        (name, ctypes.c_void_p)
        for name in (
            "qkv", "out", "up", "down", "gate", "qkv_bias", "out_bias", "up_bias", "down_bias", "gate_bias",
            "out_norm", "out_norm_bias", "down_norm", "down_norm_bias", "query_norm", "key_norm", "qkv_by", "up_by",
        )
    ]  # fmt: skip


class Tower(ctypes.Structure):
    """``struct tower``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "layers", "hidden", "heads", "intermediate")),
        *((name, ctypes.c_int64) for name in ("kv_heads", "head_size", "head_dim", "pooling", "words_type")),
        *((name, ctypes.c_int64) for name in ("padding", "is_causal", "window")),
        *((name, ctypes.c_float) for name in ("norm_eps", "score_scale")),
        *((name, ctypes.c_void_p) for name in ("words", "position_embeddings", "cosines", "sines")),
        *((name, ctypes.c_void_p) for name in ("norm", "norm_bias", "last_norm", "layer")),
    ]


class Prefix(ctypes.Structure):
    """``struct prefix``."""

    _fields_ = [("known", ctypes.c_int64), ("kept", ctypes.c_int64), ("blocks", ctypes.c_void_p)]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The kernels; None where they were not built, or were built from other sources than lie here."""
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.vectoll_sources.restype = ctypes.c_uint32
        if library.vectoll_sources() != checksum():
            return None
    except (OSError, AttributeError):
        return None
    for suffix in PRODUCTS:
        encode = getattr(library, f"vectoll_encode_{suffix}")
        encode.restype = None
        encode.argtypes = [
            ctypes.POINTER(Tower), *[ctypes.c_void_p] * 3, ctypes.c_int64, *[ctypes.c_void_p] * 3,
        ]  # fmt: skip
        scratch_bytes = getattr(library, f"vectoll_scratch_bytes_{suffix}")
        scratch_bytes.restype = ctypes.c_int64
        scratch_bytes.argtypes = [ctypes.POINTER(Tower), *[ctypes.c_int64] * 3, ctypes.c_int]
        pack = getattr(library, f"vectoll_pack_{suffix}")
        pack.restype = None
        pack.argtypes = [ctypes.c_int64] * 2 + [
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
    for product in (
        library.vectoll_product_f32,
        library.vectoll_product_bf16,
        library.vectoll_product_f32_avx2,
    ):
        product.restype = None
        product.argtypes = [ctypes.c_int64] * 3 + [ctypes.c_void_p] * 4
    library.vectoll_team_new.restype = ctypes.c_void_p
    library.vectoll_team_new.argtypes = [ctypes.c_int, ctypes.c_int]
    library.vectoll_team_free.restype = None
    library.vectoll_team_free.argtypes = [ctypes.c_void_p]
    return library


def checksum() -> int:
    """CRC-32 of the kernels' sources, as ``hatch_build.py`` builds it in."""
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir())))


def capabilities() -> int:
    """The bits above that are true of this CPU; 0 where the kernels were not built."""
    library = load_library()
    return library.vectoll_capabilities() if library else 0
