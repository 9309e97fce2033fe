"""What the CPU under the tests can do, whatever was built for it."""

import platform
from pathlib import Path

import pytest

_CPUINFO = Path("/proc/cpuinfo")
_FLAGS = set(_CPUINFO.read_text().split()) if platform.machine() == "x86_64" and _CPUINFO.is_file() else set()
HAS_AVX2 = {"avx2", "fma", "f16c"}.issubset(_FLAGS)
HAS_AVX512 = HAS_AVX2 and {"avx512f", "avx512bw", "avx512vl", "avx512dq"}.issubset(_FLAGS)
HAS_AVX512_BF16 = HAS_AVX2 and "avx512_bf16" in _FLAGS

needs_avx2 = pytest.mark.skipif(not HAS_AVX2, reason="the native kernels are for AVX2 or AVX-512")
needs_avx512_f32 = pytest.mark.skipif(not HAS_AVX512, reason="these native kernels are for AVX-512")
needs_avx512 = pytest.mark.skipif(
    not HAS_AVX512_BF16, reason="these native kernels are for AVX-512 with bf16"
)
"""None is for what merely was not built: a missing compiler fails."""
