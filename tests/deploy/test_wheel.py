"""A wheel carries the CPU kernels where there is a compiler, and is complete without them where there is none."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.deploy.tools import ROOT

from vectoll.kernels.library import checksum

KERNELS = "vectoll/kernels/_kernels.so"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a wheel is built from, with a library that an earlier build left."""
    ignore = shutil.ignore_patterns("__pycache__", "_kernels.so")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignore)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src" / KERNELS).write_bytes(b"of other sources")
    return tmp_path


def build(checkout: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    environ = {**os.environ, **environ}
    return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False)


def wheel(checkout: Path) -> Path:
    (path,) = (checkout / "dist").iterdir()
    return path


def names(checkout: Path) -> list[str]:
    return zipfile.ZipFile(wheel(checkout)).namelist()


def test_with_a_compiler_the_wheel_is_of_this_platform_and_its_kernels_run(checkout: Path) -> None:
    done = build(checkout, REQUIRE_KERNELS="1")
    assert done.returncode == 0, done.stderr
    assert wheel(checkout).name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    zipfile.ZipFile(wheel(checkout)).extract(KERNELS, checkout / "installed")
    kernels = ctypes.CDLL(str(checkout / "installed" / KERNELS))
    kernels.vectoll_sources.restype = ctypes.c_uint32
    assert kernels.vectoll_sources() == checksum()
    assert not any("build-" in name for name in names(checkout))


@pytest.mark.parametrize(
    ("compiler", "why"), [("no-such-compiler", "no C compiler was found"), ("false", "failed")]
)
def test_without_a_compiler_the_wheel_is_for_everybody_and_says_what_is_missing(
    checkout: Path, compiler: str, why: str
) -> None:
    done = build(checkout, CC=compiler)
    assert done.returncode == 0, done.stderr
    assert why in done.stdout + done.stderr
    assert wheel(checkout).name.endswith("-py3-none-any.whl")
    assert KERNELS not in names(checkout)
    assert KERNELS.replace("_kernels.so", "library.py") in names(checkout)


def test_a_release_insists_on_the_kernels(checkout: Path) -> None:
    done = build(checkout, CC="no-such-compiler", REQUIRE_KERNELS="1")
    assert done.returncode != 0
    assert "no C compiler was found" in done.stdout + done.stderr
