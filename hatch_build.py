"""Builds the CPU kernels into the package, where there is a C compiler for a CPU that has any.

Without one the package is complete all the same: OpenVINO computes what the kernels would have. Set
VECTOLL_REQUIRE_KERNELS=1 to make that an error, as a release does.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("src/vectoll/adapters/engines/native")
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
SOURCES = {
    "capabilities.c": (),
    "team.c": ("-pthread",),
    "encoder_f32.c": AVX512,
    "encoder_bf16.c": (*AVX512, "-mavx512bf16"),
}
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror", "-g0")


class KernelsHook(BuildHookInterface[Any]):
    """Runs for wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile, and mark the wheel as being for this platform."""
        root = Path(self.root)
        (root / LIBRARY).unlink(missing_ok=True)
        if self.target_name != "wheel":
            return
        why = missing()
        if why is None:
            why = build(root)
        if why is None:
            build_data["artifacts"].append(str(LIBRARY))
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        elif os.environ.get("VECTOLL_REQUIRE_KERNELS"):
            raise SystemExit(f"vectoll: the CPU kernels could not be built: {why}")
        else:
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


def build(root: Path) -> str | None:
    """Compile every source and link them. Returns what the compiler said where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder) / f"{source}.o" for source in SOURCES]
        commands = [
            [*FLAGS, *flags, "-c", str(root / FOLDER / "kernels" / source), "-o", str(target)]
            for (source, flags), target in zip(SOURCES.items(), objects, strict=True)
        ]
        library = Path(folder) / "library"
        commands.append(["-shared", "-pthread", *map(str, objects), "-o", str(library)])
        for command in commands:
            done = subprocess.run([*compiler(), *command], capture_output=True, text=True, check=False)
            if done.returncode:
                return done.stderr.strip()[-2000:] or f"{compiler()[0]} failed"
        shutil.copy(library, root / LIBRARY)
    return None
