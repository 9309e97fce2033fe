"""A server that accepts its operator's JWTs beside its own keys."""

import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.live import MODEL, UNITS_PER_TOKEN, Vectoll

EMBEDDINGS = "/v1/embeddings"


def test_token_spends_its_own_accounts_credit(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = tmp_path / "issuer.pem"
    pem.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    vectoll = Vectoll(tmp_path / "home", f'[jwt]\npublic_key_files = ["{pem}"]\naudience = "vectoll"\n')

    def bearer(**changes: object) -> dict[str, str]:
        claims = {"sub": "user-42", "aud": "vectoll", "exp": int(time.time()) + 60} | changes
        return {"authorization": f"Bearer {jwt.encode(claims, key, 'EdDSA')}"}

    body = {"model": MODEL, "input": "hello"}
    with vectoll.serve() as server, server.client() as client:
        without_credit = client.post(EMBEDDINGS, json=body, headers=bearer())
        vectoll.run("credit", "add", "--account", "user-42", "--usd", "1", "--create")
        embedded = client.post(EMBEDDINGS, json=body, headers=bearer())
        expired = client.post(EMBEDDINGS, json=body, headers=bearer(exp=1))
        for_others = client.post(EMBEDDINGS, json=body, headers=bearer(aud="others"))
        admin = client.get("/api/v1/api_keys", headers=bearer(admin=True))
        own_key = client.post(EMBEDDINGS, json=body, headers=vectoll.create_key().headers)
    answers = (without_credit, embedded, expired, for_others, admin, own_key)
    assert [answer.status_code for answer in answers] == [402, 200, 401, 401, 403, 200]
    assert "it has expired" in expired.json()["error"]["message"]
    [row] = vectoll.json("usage", "--account", "user-42")
    assert row["key"] is None
    assert row["charged_usd"] * 10**12 == embedded.json()["usage"]["prompt_tokens"] * UNITS_PER_TOKEN
    vectoll.verify()
