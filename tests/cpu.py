"""What the CPU under the tests can do, whatever was built for it."""

import platform
from pathlib import Path

import pytest

_CPUINFO = Path("/proc/cpuinfo")
HAS_AVX512_BF16 = (
    platform.machine() == "x86_64" and _CPUINFO.is_file() and " avx512_bf16" in _CPUINFO.read_text()
)

needs_avx512 = pytest.mark.skipif(not HAS_AVX512_BF16, reason="the native kernels are for AVX-512 with bf16")
"""Not for what merely was not built: a missing compiler fails."""
