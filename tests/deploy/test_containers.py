"""Dockerfile and compose.yaml, by the programs that judge them. What an engine would build is not shown here."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from tests.deploy.tools import ROOT, docker_compose, run, tool

from vectoll.cli.root import cli
from vectoll.databases import UNDECIDED_NAME
from vectoll.settings import Settings, load_settings
from vectoll.settings.sources import NOT_SETTINGS

SECRETS = {"POSTGRES_PASSWORD": "p-of-the-test", "CLUSTER_SECRET": "s-of-the-test-0123456789"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def compose(*options: str, **environ: str) -> dict[str, Any]:
    done = run(
        docker_compose(), "--file", ROOT / "compose.yaml", *options, "config", "--format=json", **environ
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def settings_of(service: dict[str, Any]) -> Settings:
    environ = {k: v for k, v in service["environment"].items() if k not in NOT_SETTINGS}
    return load_settings(None, environ=environ)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = run(tool("hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_starts_from_pinned_tags_and_runs_as_nobody_special() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(bases) == 2, "what builds stays behind"
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)
    assert re.findall(r"^USER (.*)", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "HEALTHCHECK" in DOCKERFILE
    assert "torch" not in re.sub(r"^#.*", "", DOCKERFILE, flags=re.MULTILINE)


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)
    assert fnmatch.fnmatch("x.pyc", "*.py[cod]")


def test_settings_in_the_image_are_settings() -> None:
    environ = dict(re.findall(r"(VECTOLL_\w+)=(\S+)", DOCKERFILE))
    settings = load_settings(None, environ=environ)
    assert (settings.host, settings.port, settings.data_dir) == ("0.0.0.0", 8787, "/var/lib/vectoll")


def test_gateways_share_postgres_and_wait_for_its_schema() -> None:
    services = compose(**SECRETS)
    assert set(services) == {"postgres", "migrate", "gateway"}
    gateway = services["gateway"]
    url = f"postgresql://vectoll:{SECRETS['POSTGRES_PASSWORD']}@postgres:5432/vectoll"
    assert settings_of(gateway).database.url == settings_of(services["migrate"]).database.url == url
    assert settings_of(gateway).engine.backend == "local"
    assert gateway["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert [port["host_ip"] for port in gateway["ports"]] == ["127.0.0.1"], (
        "behind a proxy, unless told otherwise"
    )
    assert "postgresql" not in json.dumps(services["postgres"].get("ports", [])), (
        "the database is not published"
    )


def test_what_a_lost_gateway_had_to_find_out_is_there_for_the_others() -> None:
    gateway = compose(**SECRETS)["gateway"]
    place = f"/var/lib/vectoll/{UNDECIDED_NAME}"
    shared = {volume["target"]: volume["type"] for volume in gateway["volumes"]}
    assert shared[place] == "volume"
    assert place in DOCKERFILE, "the volume belongs to the image's user"


def test_with_the_cluster_gateways_find_replicas_by_the_secret_they_share() -> None:
    services = compose("--profile", "cluster", VECTOLL_BACKEND="ray", **SECRETS)
    assert set(services) == {"postgres", "migrate", "gateway", "ray"}
    gateway, ray = settings_of(services["gateway"]), settings_of(services["ray"])
    assert gateway.engine.backend == "ray"
    assert gateway.cluster.route == "http"
    assert gateway.cluster.urls == (f"http://ray:{ray.cluster.http_port}",)
    assert gateway.cluster.secret == ray.cluster.secret == SECRETS["CLUSTER_SECRET"]
    assert ray.cluster.http_host == "0.0.0.0"
    members = services["ray"]["environment"]
    assert (members["RAY_AUTH_MODE"], members["RAY_AUTH_TOKEN"]) == ("token", SECRETS["CLUSTER_SECRET"])
    assert "ray" in services["ray"]["build"]["args"]["EXTRAS"].split(",")


def test_what_containers_are_told_to_run_are_commands() -> None:
    services = compose("--profile", "cluster", **SECRETS)
    lines = [services["gateway"]["command"], services["migrate"]["command"]]
    lines += [
        line.split() for line in re.findall(r"vectoll ([a-z ]+)", services["ray"]["command"][0], re.MULTILINE)
    ]
    assert len(lines) == 3
    for words in lines:
        command: click.Command | None = cli
        for word in words:
            assert isinstance(command, click.Group), words
            command = command.commands.get(word)
        assert command is not None, words


def test_containers_outlast_the_drain() -> None:
    services = compose("--profile", "cluster", **SECRETS)
    for name in ("gateway", "ray"):
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= settings_of(services[name]).drain_timeout_s + 10


@pytest.mark.parametrize(
    ("spoil", "said"),
    [("service_healthy", "must be one of"), ("postgres:\n    image", "undefined")],
)
def test_the_client_does_refuse_what_is_wrong(tmp_path: Path, spoil: str, said: str) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(
        (ROOT / "compose.yaml")
        .read_text()
        .replace(spoil, spoil.replace("post", "past").replace("healthy", "well"))
    )
    done = run(docker_compose(), "--file", broken, "config", "--quiet", **SECRETS)
    assert done.returncode != 0
    assert said in done.stderr
    without_password = run(docker_compose(), "--file", ROOT / "compose.yaml", "config", "--quiet")
    assert "POSTGRES_PASSWORD" in without_password.stderr
