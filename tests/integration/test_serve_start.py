"""`vectoll serve`: the first start, the later ones, and the ones that are refused."""

import json
import os
import re
import resource
import socket
import stat
import subprocess
from pathlib import Path

import httpx
import pytest
from tests.live import COMMAND, DIMS, MODEL, Vectoll

from vectoll.domain.identity import new_secret
from vectoll.server.descriptors import ENOUGH_FILES


def curl_line(banner: str) -> str:
    return next(line for line in banner.splitlines() if line.startswith("curl "))


def key_in(banner: str) -> str:
    found = re.search(r"Bearer (vtk_[\w-]+)", curl_line(banner))
    assert found, banner
    return found.group(1)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_first_start_prints_a_curl_line_that_works_and_later_starts_print_the_same(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve() as server:
        first = vectoll.banner
        pasted = subprocess.run(
            ["sh", "-c", curl_line(first)], capture_output=True, check=True, timeout=60
        ).stdout
        answer = json.loads(pasted)
        assert len(answer["data"][0]["embedding"]) == DIMS
        assert f"{server.url}/api/v1" in first
        assert f"{server.url}/v1" in first
        assert "\033" not in first  # plain when piped
    with vectoll.serve():
        assert key_in(vectoll.banner) == key_in(first)

    assert mode(vectoll.data_dir) == 0o700
    assert {mode(path) for path in vectoll.data_dir.iterdir()} == {0o600}
    [row] = vectoll.json("usage")
    assert row["model"] == MODEL
    assert row["tokens"] == answer["usage"]["prompt_tokens"]
    [created] = vectoll.json("keys", "list")
    assert created["name"] == "development"
    vectoll.verify()


def test_operator_who_made_a_key_first_gets_no_development_key(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    own = vectoll.create_key()
    with vectoll.serve() as server, server.client(own) as client:
        assert "vtk_" not in vectoll.banner
        assert client.get("/api/v1/billing/balance").status_code == 200
    assert [key["id"] for key in vectoll.json("keys", "list")] == [own.id]


def test_revoked_development_key_is_not_printed_again(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve():
        secret = key_in(vectoll.banner)
    [key] = vectoll.json("keys", "list")
    vectoll.run("keys", "revoke", key["id"])
    with vectoll.serve():
        assert secret not in vectoll.banner


def test_first_start_that_was_cut_short_is_made_good(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    vectoll.data_dir.mkdir()
    secret = new_secret()
    (vectoll.data_dir / "development-key").write_text(f"{secret}\n")
    with vectoll.serve() as server:
        balance = f"{server.url}/api/v1/billing/balance"
        answer = httpx.get(balance, headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        assert key_in(vectoll.banner) == secret


def test_log_is_json_with_the_request_id_and_without_key_or_text(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve("--log-level", "debug") as server:
        key = vectoll.create_key()
        with server.client(key) as client:
            sent = {"model": MODEL, "input": "sesquipedalian"}
            answer = client.post("/v1/embeddings", json=sent, headers={"x-request-id": "req-of-mine"})
            assert answer.status_code == 200
            client.post("/v1/embeddings", json={"model": MODEL, "input": ["sesquipedalian", 1]})
            client.post("/v1/embeddings", json=sent, headers={"authorization": f"Bearer {key.secret}x"})
        development_key = (vectoll.data_dir / "development-key").read_text().strip()
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert any(line.get("request_id") == "req-of-mine" and line["status"] == 200 for line in lines)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    assert key.secret not in text
    assert development_key not in text
    assert "sesquipedalian" not in text


def test_a_server_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with Vectoll(tmp_path).serve() as server:
            raised, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised == min(hard, ENOUGH_FILES)


def serve_in_vain(vectoll: Vectoll, **environment: str) -> str:
    """The one line with which `vectoll serve` refuses a wrong setting."""
    return refusal(vectoll, 2, **environment)


def refusal(vectoll: Vectoll, code: int, *options: str, **environment: str) -> str:
    """The one line with which `vectoll serve` ends: 2 for a wrong setting, 1 for what is in use."""
    done = subprocess.run(
        [COMMAND, "serve", *options],
        env={
            **os.environ,
            "VECTOLL_PORT": "0",
            "VECTOLL_DATA_DIR": str(vectoll.data_dir),
            **environment,
        },
        cwd=vectoll.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    return done.stderr


def test_second_server_on_one_data_directory_is_refused(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve() as server:
        line = refusal(vectoll, 1)
        assert f"(process {server.process.pid})" in line
        assert str(vectoll.data_dir) in line
        assert httpx.get(f"{server.url}/ready").status_code == 200


def test_killed_server_leaves_no_lock_behind(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve() as server:
        server.kill()
    with vectoll.serve() as server:
        assert httpx.get(f"{server.url}/ready").status_code == 200


def test_busy_port_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        line = refusal(vectoll, 1, "--port", str(port))
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line
    assert not (vectoll.data_dir / "vectoll.sqlite3").exists()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("VECTOLL_PORT", "70000", "setting port"),
        ("VECTOLL_PORT", "http", "setting port"),
        ("VECTOLL_HOST", "not a host", "setting host"),
        ("VECTOLL_LIMITS__REQUESTS_PER_MINUTE", "-1", "setting limits.requests_per_minute"),
        ("VECTOLL_LIMITS__REQUEST_PER_MINUTE", "1", "did you mean VECTOLL_LIMITS__REQUESTS_PER_M"),
        ("VECTOLL_ENGINE__PRECISION", "f16", "setting engine.precision"),
        ("VECTOLL_DRAIN_TIMEOUT_S", "0", "setting drain_timeout_s"),
        ("VECTOLL_DEFAULT_PRICE_USD_PER_MILLION", "cheap", "not a decimal number"),
        ("VECTOLL_CONFIG", "/nowhere/vectoll.toml", "cannot read /nowhere/vectoll.toml"),
        ("VECTOLL_DATA_DIR", "", "setting data_dir"),
        ("VECTOLL_JWT__JWKS_FILE", "/nowhere/jwks.json", "setting jwt.jwks_file: cannot read"),
        ("VECTOLL_MODELS", '[{"id":"m"}]', "model 'm', setting path"),
        ("VECTOLL_MODELS", '[{"id":"all-MiniLM-L6-v2","price_usd_per_million":"x"}]', "not a decimal number"),
        ("VECTOLL_MODELS", '[{"id":"all-MiniLM-L6-v2","aliases":["text-embedding-bge-m3"]}]', "two models"),
    ],
)
def test_wrong_setting_is_one_clear_line(tmp_path: Path, name: str, value: str, says: str) -> None:
    vectoll = Vectoll(tmp_path)
    assert says in serve_in_vain(vectoll, **{name: value})


def test_models_that_are_not_there_are_offline_each_for_its_reason_and_the_others_serve(
    tmp_path: Path,
) -> None:
    config = """
    [[models]]
    id = "gone"
    path = "/nowhere"
    [[models]]
    id = "text-embedding-3-small"
    """
    vectoll = Vectoll(tmp_path, config)
    with vectoll.serve() as server:
        key = vectoll.create_key()
        with server.client(key) as client:
            listed = {
                model["id"]: model["model_spec"] for model in client.get("/api/v1/models").json()["data"]
            }
            answers = {
                model: client.post("/api/v1/embeddings", json={"model": model, "input": "a", "dimensions": 8})
                for model in ("gone", "text-embedding-3-small")
            }
            served = client.post("/api/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert served.status_code == 200
    for model, answer in answers.items():
        assert (answer.status_code, answer.json()["code"]) == (503, "MODEL_OFFLINE")
        assert listed[model]["offline"]
    assert "its checkpoint is not there or cannot be read" in answers["gone"].text
    assert "nowhere" not in answers["gone"].text
    assert "has not set the API key" in answers["text-embedding-3-small"].text
    log = server.log.read_text()
    assert "model 'gone', setting path: no config.json in /nowhere" in log
    assert "the environment variable OPENAI_API_KEY" in log


def test_model_that_cannot_be_loaded_is_offline_and_the_others_serve(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "bert"}')
    config = f"""
    [[models]]
    id = "broken"
    path = "{broken}"
    pooling = "mean"
    dims = 8
    max_tokens = 16
    """
    vectoll = Vectoll(tmp_path / "home", config)
    with vectoll.serve() as server:
        key = vectoll.create_key()
        with server.client(key) as client:
            offline = client.post("/api/v1/embeddings", json={"model": "broken", "input": "a"})
            served = client.post("/api/v1/embeddings", json={"model": MODEL, "input": "a"})
    assert offline.status_code == 503
    assert offline.json()["code"] == "MODEL_OFFLINE"
    assert str(broken) not in offline.text
    assert str(broken) in server.log.read_text()
    assert served.status_code == 200
    assert "broken" not in vectoll.banner.splitlines()[0]
