"""The command line beside a server: what it writes, the server sees at once; what it embeds is the same."""

import json
from pathlib import Path

import numpy as np
from tests.live import MODEL, Vectoll

TEXTS = [
    f"{text} {i}" for i in range(40) for text in ("a short text", "another one, a little longer than that")
]


def test_embed_gives_the_same_vectors_from_a_server_as_without(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path, engine__precision="f32")
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS))
    vectoll.run("embed", "--file", "lines.txt", "--output", "local.npy")
    with vectoll.serve() as server:
        key = vectoll.create_key()
        for base in ("", "/v1"):
            vectoll.run(
                *("embed", "--file", "lines.txt", "--output", "remote.npy"),
                *("--url", server.url + base, "--api-key", key.secret),
            )
            local, remote = np.load(tmp_path / "local.npy"), np.load(tmp_path / "remote.npy")
            assert remote.shape == (len(TEXTS), 384)
            assert np.abs(local - remote).max() < 1e-5
    [row] = vectoll.json("usage")
    assert row["key"] == key.id
    assert row["tokens"] > 2 * 3 * len(TEXTS)


def test_embed_says_what_the_server_refuses(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    with vectoll.serve() as server:
        poor = vectoll.create_key("0")
        no_key = vectoll.try_run("embed", "a", "--url", server.url)
        no_credit = vectoll.try_run("embed", "a", "--url", server.url, "--api-key", poor.secret)
        no_model = vectoll.try_run(
            "embed", "a", "--url", server.url, "--api-key", poor.secret, "--model", "x"
        )
    assert (no_key.returncode, no_credit.returncode, no_model.returncode) == (1, 1, 1)
    assert "the server answered 401" in no_key.stderr
    assert "the server answered 402: Insufficient balance" in no_credit.stderr
    assert "the server answered 400: The model 'x' is not served here" in no_model.stderr


def test_server_sees_what_commands_write_at_once(tmp_path: Path) -> None:
    vectoll = Vectoll(tmp_path)
    body = {"model": MODEL, "input": "hello"}
    with vectoll.serve() as server:
        key = vectoll.create_key("0")
        with server.client(key) as client:
            before = client.post("/api/v1/embeddings", json=body)
            vectoll.run("credit", "add", "--key", key.id, "--usd", "1")
            credited = client.post("/api/v1/embeddings", json=body)
            charged = vectoll.json("usage")
            other = vectoll.create_key("1")  # never used before: what it was is not remembered
            vectoll.run("keys", "revoke", other.id)
        with server.client(other) as client:
            revoked = client.post("/api/v1/embeddings", json=body)
    assert [answer.status_code for answer in (before, credited, revoked)] == [402, 200, 401]
    assert charged[0]["tokens"] == credited.json()["usage"]["prompt_tokens"]
    assert json.loads(revoked.text)["error"].startswith("Authentication failed")
    vectoll.verify()
