"""Whom a server behind a proxy counts: the client that the proxy names, where the proxy is one that is believed."""

from pathlib import Path

import httpx
import pytest
from tests.live import Vectoll


def status_for(client: httpx.Client, address: str | None) -> int:
    """Of a stranger's request that came for ``address``."""
    headers = {} if address is None else {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}
    return client.get("/api/v1/models", headers=headers).status_code


@pytest.mark.parametrize(
    ("believed", "expected"),
    [("127.0.0.1", [200, 429, 200, 429, 200, 429]), ("192.0.2.1", [200, 429, 429, 429, 429, 429])],
    ids=["believed", "not believed"],
)
def test_strangers_are_told_apart_by_the_address_that_a_believed_proxy_names(
    tmp_path: Path, believed: str, expected: list[int]
) -> None:
    vectoll = Vectoll(tmp_path, limits__requests_per_minute=1, forwarded_allow_ips=believed)
    with vectoll.serve() as server, server.client() as client:
        asked = [None, None, "198.51.100.7", "198.51.100.7", "198.51.100.8", "198.51.100.8"]
        assert [status_for(client, address) for address in asked] == expected
