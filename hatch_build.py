"""Builds the CPU kernels into the package, where there is a C compiler for a CPU that has any.

Without one the package is complete all the same: OpenVINO computes, and orjson writes, what the kernels would have.
Set REQUIRE_KERNELS=1 to make that, and any warning of the compiler's, an error: the container image does.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/vectoll/kernels")
LIBRARY = FOLDER / "_kernels.so"
AVX512 = (
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mfma",
    "-mf16c",
    "-mprefer-vector-width=512",
)
AVX2 = ("-mavx2", "-mfma", "-mf16c")
SOURCES = {
    "capabilities.c": (),
    "team.c": ("-pthread",),
    "encode_f32.c": AVX512,
    "encode_f32_avx2.c": AVX2,
    "encode_bf16.c": (*AVX512, "-mavx512bf16"),
    "numbers_avx512.c": AVX512,
    "numbers_avx2.c": AVX2,
    "encode_int8.c": (*AVX512, "-mavx512bf16", "-mavx512vnni"),
}
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-g0")


class KernelsHook(BuildHookInterface[Any]):
    """Runs for wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and mark the wheel as being for this platform."""
        root, is_required = Path(self.root), bool(os.environ.get("REQUIRE_KERNELS"))
        why = missing() or build(root, strict=is_required)
        if why is None:
            build_data["artifacts"].append(str(LIBRARY))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        elif is_required:
            raise SystemExit(f"vectoll: the CPU kernels could not be built: {why}")
        else:
            (root / LIBRARY).unlink(missing_ok=True)
            self.app.display_warning(f"vectoll: without its own CPU kernels, OpenVINO computes: {why}")


def missing() -> str | None:
    """Why there is nothing to build here; None where there is."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"they are for Linux on x86_64, not for {sys.platform} on {platform.machine()}"
    if shutil.which(compiler()[0]) is None:
        return f"no C compiler was found ({compiler()[0]}); Debian, Ubuntu: apt install gcc libc6-dev"
    return None


def compiler() -> list[str]:
    """The command of the C compiler: $CC, or cc."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def build(root: Path, *, strict: bool = False) -> str | None:
    """Compile every source and link them. Returns what the compiler said where it failed.

    The library is replaced in one step: a server may be reading the last one.
    """
    sources = sorted((root / FOLDER / "sources").iterdir())
    checksum = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    flags_of_all = [*FLAGS, f"-DSOURCES={checksum}u", *(["-Werror"] if strict else [])]
    with tempfile.TemporaryDirectory(dir=root / FOLDER, prefix="build-") as folder:
        objects = [Path(folder) / f"{source}.o" for source in SOURCES]
        commands = [
            [*flags_of_all, *flags, "-c", str(root / FOLDER / "sources" / source), "-o", str(target)]
            for (source, flags), target in zip(SOURCES.items(), objects, strict=True)
        ]
        library = Path(folder) / "library"
        link = ["-shared", "-pthread", *map(str, objects), "-o", str(library)]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            compiled = list(threads.map(_failure_of, commands))
        if why := next(filter(None, compiled), None) or _failure_of(link):
            return why
        library.replace(root / LIBRARY)
    return None


def _failure_of(command: list[str]) -> str | None:
    """What the compiler said to a command that failed."""
    done = subprocess.run([*compiler(), *command], capture_output=True, text=True, check=False)
    return done.stderr.strip()[-2000:] or f"{compiler()[0]} failed" if done.returncode else None
