"""The systemd units, by systemd's own judgement, and the server's part of Type=notify."""

import configparser
import re
import socket
from pathlib import Path

import pytest
from tests.deploy.tools import DEPLOY, run, tool
from tests.live import COMMAND, Vectoll

from vectoll.settings import Settings

UNITS = DEPLOY / "systemd"
UNIT = (UNITS / "vectoll.service").read_text()
SERVICES = ("vectoll.service", "vectoll-backup.service")
INSTALLED_AT = "/opt/vectoll/bin/vectoll"
MOST_EXPOSURE = 2.0
"""systemd-analyze security: 0 is shut, 10 is wide open."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The server's unit, as it is verified."""
    return here(tmp_path, "vectoll.service")


def here(folder: Path, name: str) -> Path:
    """A unit, with the program where it is on this machine: systemd looks whether it can be run."""
    file = folder / name
    text = (UNITS / name).read_text()
    assert text.count(INSTALLED_AT) == (not name.endswith(".timer"))
    file.write_text(text.replace(INSTALLED_AT, str(COMMAND)))
    return file


def test_systemd_accepts_the_units_without_a_word(tmp_path: Path) -> None:
    units = [here(tmp_path, unit.name) for unit in UNITS.iterdir()]
    assert len(units) == 3
    done = run(tool("systemd-analyze"), "verify", "--man=no", *units)
    ours = [line for line in done.stderr.splitlines() if "vectoll" in line]
    assert (done.returncode, ours) == (0, [])


def test_systemd_would_have_said_so_of_a_wrong_one(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ProtectSystem=strict", "ProtectSystem=strictly"))
    done = run(tool("systemd-analyze"), "verify", "--man=no", unit)
    assert "Failed to parse protect system value" in done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_shut_off_from_what_they_do_not_need(tmp_path: Path, name: str) -> None:
    done = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", here(tmp_path, name))
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


def service_of(name: str) -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((UNITS / name).read_text())
    return parser["Service"]


def test_the_backup_reads_what_the_server_writes(tmp_path: Path) -> None:
    server, backup = service_of("vectoll.service"), service_of("vectoll-backup.service")
    assert server["User"] == backup["User"] == "vectoll"
    assert server["StateDirectory"] in backup["StateDirectory"].split()
    vectoll = Vectoll(tmp_path / "home")
    vectoll.create_key()
    words = backup["ExecStart"].split()[1:]
    where = {"/var/lib/vectoll": str(vectoll.data_dir), words[-1]: str(tmp_path / "copy")}
    for _ in range(2):
        done = run(COMMAND, *(where.get(word, word) for word in words))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").exists()


def test_commands_run_as_the_documentation_says_see_what_the_services_see(tmp_path: Path) -> None:
    document = (DEPLOY.parent / "docs" / "howto" / "deploy.md").read_text()
    [found] = re.findall(r'^run="systemd-run (.+?)"$', document, re.MULTILINE | re.DOTALL)
    *options, program = found.split()
    properties = [
        option.removeprefix("--property=") for option in options if option.startswith("--property=")
    ]
    settings = [option.removeprefix("--setenv=") for option in options if option.startswith("--setenv=")]
    assert program == INSTALLED_AT
    server, backup = service_of("vectoll.service"), service_of("vectoll-backup.service")
    for name in ("User", "DynamicUser", "CacheDirectory", "EnvironmentFile"):
        assert f"{name}={server[name]}" in properties
    for folder in backup["StateDirectory"].split():
        assert f"StateDirectory={folder}" in properties
    assert f"WorkingDirectory={server['WorkingDirectory'].replace('%E', '/etc')}" in properties
    assert server["Environment"].replace("%C", "/var/cache") in settings
    assert f"VECTOLL_DATA_DIR=/var/lib/{server['StateDirectory']}" in settings
    unit = tmp_path / "command.service"
    unit.write_text("\n".join(["[Service]", "Type=oneshot", f"ExecStart={COMMAND} usage", *properties]))
    done = run(tool("systemd-analyze"), "verify", "--man=no", unit)
    assert (done.returncode, "command.service" in done.stderr) == (0, False), done.stderr


def test_the_service_has_time_to_drain() -> None:
    service = service_of("vectoll.service")
    assert float(service["TimeoutStopSec"]) >= Settings().drain_timeout_s + 15
    assert (service["Type"], service["Restart"], service["DynamicUser"]) == ("notify", "on-failure", "yes")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_server_says_when_it_is_ready_and_when_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    name = f"vectoll-test-{tmp_path.name}"
    address = f"\0{name}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(address)
        supervisor.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
        with Vectoll(tmp_path / "home").serve() as server:
            assert supervisor.recv(64) == b"READY=1"
            server.terminate()
            assert supervisor.recv(64) == b"STOPPING=1"
            assert server.process.wait(30) == 0
