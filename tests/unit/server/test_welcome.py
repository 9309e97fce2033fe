"""The development key, and what is printed."""

import shlex
import stat
from pathlib import Path

import pytest

from vectoll.adapters.storage.memory import MemoryStore
from vectoll.domain.errors import ConfigurationError
from vectoll.domain.identity import digest_of
from vectoll.domain.ids import ModelId
from vectoll.domain.money import usd
from vectoll.ports.clock import SystemClock
from vectoll.server.welcome import (
    ACCOUNT,
    KEY_FILE,
    open_development_account,
    prepare_development_key,
    welcome,
)

CLOCK = SystemClock()


def test_key_is_made_on_the_first_start_only_and_kept_for_its_owner(tmp_path: Path) -> None:
    data_dir = tmp_path / "deep" / "data"
    secret = prepare_development_key(data_dir, is_first_start=True)
    assert secret is not None
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / KEY_FILE).stat().st_mode) == 0o600
    assert prepare_development_key(data_dir, is_first_start=False) == secret
    (data_dir / KEY_FILE).unlink()
    assert prepare_development_key(data_dir, is_first_start=False) is None
    assert not (data_dir / KEY_FILE).exists()


def test_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).mkdir()
    with pytest.raises(ConfigurationError, match=KEY_FILE):
        prepare_development_key(tmp_path, is_first_start=True)
    (tmp_path / KEY_FILE).rmdir()
    (tmp_path / KEY_FILE).write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="does not hold a key"):
        prepare_development_key(tmp_path, is_first_start=True)


async def test_account_is_opened_once_with_five_dollars() -> None:
    store = MemoryStore()
    for _ in range(3):
        assert await open_development_account("vtk_one", store.keys, store.ledger, CLOCK)
    assert (await store.ledger.balance(ACCOUNT)).balance == usd("5")
    assert [key.digest for key in await store.keys.list()] == [digest_of("vtk_one")]


async def test_another_key_file_brings_no_more_credit() -> None:
    store = MemoryStore()
    for secret in ("vtk_one", "vtk_two"):
        assert await open_development_account(secret, store.keys, store.ledger, CLOCK)
    assert (await store.ledger.balance(ACCOUNT)).balance == usd("5")


async def test_revoked_key_cannot_be_used() -> None:
    store = MemoryStore()
    await open_development_account("vtk_one", store.keys, store.ledger, CLOCK)
    [key] = await store.keys.list()
    await store.keys.revoke(key.id, CLOCK.now())
    assert not await open_development_account("vtk_one", store.keys, store.ledger, CLOCK)


def test_curl_line_is_one_line_that_a_shell_reads_as_meant() -> None:
    text = welcome("http://127.0.0.1:1", "vtk_x", [ModelId("it's"), ModelId("b")], None, colors=False)
    [line] = [line for line in text.splitlines() if line.startswith("curl ")]
    assert shlex.split(line)[1:] == [
        "http://127.0.0.1:1/api/v1/embeddings",
        *("-H", "Authorization: Bearer vtk_x"),
        *("-H", "Content-Type: application/json"),
        *("-d", '{"model":"it\'s","input":"Hello, world"}'),
    ]
    assert "\033" not in text
    assert "\033[1m" in welcome("http://127.0.0.1:1", "vtk_x", [], "?", colors=True)


def test_address_with_brackets_is_quoted() -> None:
    text = welcome("http://[::1]:1", "vtk_x", [ModelId("a")], None, colors=False)
    assert "curl 'http://[::1]:1/api/v1/embeddings' -H" in text
    assert "base URL   http://[::1]:1/api/v1 " in text


def test_without_a_key_or_a_model_it_says_so() -> None:
    text = welcome("http://127.0.0.1:1", None, [], "no model is switched on", colors=False)
    assert "vectoll keys create" in text
    assert text.startswith("vectoll runs, and serves no model: no model is switched on.\n")
    assert "curl" not in text
    assert "MODEL" not in text
