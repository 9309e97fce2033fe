"""`vectoll models pull`: over a hub, as its users run it."""

import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.hub_server import Cut, Hold, HubServer, Status
from tests.live import COMMAND
from tests.minilm import PACKAGE

from vectoll.cli.root import cli

CONFIG = """
[[models]]
id = "tiny"
repo = "owner/name"
aliases = ["small"]
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "vectoll.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "vectoll.toml"


def pull(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["models", "pull", *arguments], prog_name="vectoll")


def pulled(*arguments: str) -> Any:
    result = pull(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_that_vectoll_toml_names_is_fetched_and_then_served_without_the_hub(hub: HubServer) -> None:
    (first,) = pulled()
    assert (first["id"], first["state"], first["repo"]) == ("tiny", "fetched", "owner/name")
    assert first["commit"] == "a" * 40
    assert first["size_bytes"] == first["fetched_bytes"] > 10_000
    assert (Path(first["folder"]) / "config.json").is_file()
    (again,) = pulled("small")
    assert (again["id"], again["state"], again["fetched_bytes"]) == ("tiny", "here", 0)
    asked = len(hub.asked)
    result = CliRunner().invoke(cli, ["embed", "a text", "--model", "tiny"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["embedding"]) == 32
    assert len(hub.asked) == asked


def test_for_people_it_prints_a_table_and_how_to_pin(hub: HubServer, config: Path) -> None:
    result = pull()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:2] == ["tiny", "fetched"]
    assert f'revision = "{"a" * 40}" in vectoll.toml' in result.stdout
    assert result.stderr == "", "no bar where nobody looks"
    config.write_text(CONFIG + f'revision = "{"a" * 40}"\n')
    assert "revision =" not in pull().stdout


def test_a_revision_is_pinned_by_option_or_by_setting(hub: HubServer, config: Path) -> None:
    hub.branches["v1"] = "b" * 40
    assert pulled("tiny", "--revision", "v1")[0]["commit"] == "b" * 40
    config.write_text(CONFIG + 'revision = "v1"\n')
    assert pulled()[0]["commit"] == "b" * 40
    hub.branches["v1"] = "c" * 40
    assert pulled()[0]["commit"] == "c" * 40
    result = pull("--revision", "v1")
    assert (result.exit_code, "exactly one model ID" in result.output) == (2, True)
    result = pull("tiny", "--revision", "v9")
    assert (result.exit_code, result.stderr) == (1, "tiny: the revision v9 of owner/name does not exist\n")


def test_a_model_that_is_not_in_the_catalogue_is_refused_with_those_that_are(hub: HubServer) -> None:
    result = pull("text-embedding-nonesuch")
    assert result.exit_code == 2
    assert "'text-embedding-nonesuch' is not served here" in result.stderr
    for known in ("text-embedding-bge-m3", "text-embedding-qwen3-0-6b", "tiny"):
        assert known in result.stderr


def test_what_has_no_weights_to_fetch_is_said(hub: HubServer, config: Path) -> None:
    result = pull("text-embedding-3-small")
    assert (result.exit_code, "served by an upstream" in result.stderr) == (2, True)
    config.write_text("")
    result = pull()
    assert (result.exit_code, "text-embedding-bge-m3" in result.stderr) == (1, True)


def test_weights_that_are_here_already_are_not_looked_for(
    hub: HubServer, config: Path, repository: Path
) -> None:
    config.write_text(f'[[models]]\nid = "mine"\npath = "{repository}"\n')
    assert pulled("mine", "all-MiniLM-L6-v2") == [
        {**EMPTY, "id": "mine", "state": "path", "folder": str(repository)},
        {**EMPTY, "id": "all-MiniLM-L6-v2", "state": "package", "folder": package_folder()},
    ]
    assert not hub.asked


EMPTY = dict.fromkeys(("repo", "commit", "size_bytes", "fetched_bytes", "error"))


def package_folder() -> str:
    from vectoll.adapters.checkpoints import locate
    from vectoll.domain.catalog import ModelSource

    return str(locate("", ModelSource(package=PACKAGE)))


def test_one_that_fails_does_not_keep_another_from_coming(hub: HubServer, config: Path) -> None:
    config.write_text('[[models]]\nid = "gone"\nrepo = "owner/gone"\n' + CONFIG)
    result = pull("--json")
    assert result.exit_code == 1
    gone, tiny = json.loads(result.stdout)
    assert (gone["state"], tiny["state"]) == ("failed", "fetched")
    assert "does not exist or is private" in gone["error"]


@pytest.mark.parametrize("fault", [Status(401), Status(403)])
def test_a_refusal_is_one_line(hub: HubServer, fault: Status) -> None:
    hub.info_faults.append(fault)
    result = pull()
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "HF_TOKEN" in result.stderr


def test_the_repository_that_a_setting_lacks_dims_for_can_be_pulled_first(hub: HubServer) -> None:
    result = CliRunner().invoke(cli, ["models", "list"])
    assert result.exit_code == 0, "the others are served"
    assert (
        "tiny is off: the weights of owner/name are not on this machine: run `vectoll models pull tiny`"
        in result.stderr
    )
    result = CliRunner().invoke(cli, ["embed", "a text", "--model", "tiny"])
    assert (result.exit_code, "`vectoll models pull tiny`" in result.stderr) == (1, True)
    pulled()
    assert CliRunner().invoke(cli, ["models", "list"]).stderr == ""


class Machine:
    """The installed command in a process of its own."""

    def __init__(self, hub: HubServer, home: Path) -> None:
        self._home = home
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VECTOLL_"))}
        self._environment = {**keep, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf")}

    def start(self, **how: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [COMMAND, "models", "pull", "tiny", "--json"], env=self._environment, cwd=self._home, **how
        )

    def finish(self) -> tuple[Any, str]:
        process = self.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return json.loads(out)[0], err.decode()


def test_a_process_that_is_killed_leaves_what_it_has_for_the_next(hub: HubServer, tmp_path: Path) -> None:
    machine = Machine(hub, tmp_path)
    held, released = threading.Event(), threading.Event()
    hub.file_faults.append(Hold(after=900, held=held, until=released))
    process = machine.start(stdout=subprocess.DEVNULL)
    assert held.wait(30)
    partial = wait_for_bytes(tmp_path / "hf", 900)
    process.kill()
    process.wait()
    released.set()
    assert partial.is_file()
    done, errors = machine.finish()
    assert (done["state"], errors) == ("fetched", "")
    ranges = [asked.range for asked in hub.asked if asked.path.startswith("/large/")]
    assert ranges[:2] == [None, "bytes=900-"]


def wait_for_bytes(folder: Path, size: int) -> Path:
    """The partial file, once it has this many bytes: they are on the way when the server has sent them."""
    for _ in range(1000):
        for partial in folder.rglob("*.partial"):
            if partial.stat().st_size >= size:
                return partial
        threading.Event().wait(0.01)
    raise AssertionError("nothing arrived")


def test_a_terminal_gets_a_bar(hub: HubServer, tmp_path: Path) -> None:
    hub.file_faults.append(Cut(500))
    ours, theirs = pty.openpty()
    process = Machine(hub, tmp_path).start(stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    seen = b""
    while piece := read(ours):
        seen += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert b"100%" in seen
    assert b"MB/s" in seen


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux's end of a terminal
        return b""
