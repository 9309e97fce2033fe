"""What others wrote is shown, and not obeyed."""

import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.unit.cli.conftest import Cli

from vectoll.adapters.storage.sqlite import open_sqlite
from vectoll.cli.output import MAX_CELL, print_table, printable
from vectoll.domain.identity import ApiKey, new_secret
from vectoll.domain.ids import AccountId

HOSTILE = "a\n\x1b[2Jb\x9b31m\u202ec\r\t\x00é"


def test_what_a_terminal_would_act_on_is_spelled_out() -> None:
    assert printable(HOSTILE) == r"a\n\x1b[2Jb\x9b31m\u202ec\r\t\x00é"
    assert printable(r"Ünïcode 日本 \n") == r"Ünïcode 日本 \n"


async def store_key(vectoll: Cli, name: str) -> None:
    """As the API stores one that an ADMIN key makes."""
    store = await open_sqlite(vectoll.data_dir)
    key = ApiKey.of_secret(new_secret(), AccountId("alice"), "plain", datetime.now(UTC))
    await store.keys.add(replace(key, name=name))
    await store.close()


def test_name_of_a_key_cannot_break_out_of_its_cell(vectoll: Cli) -> None:
    asyncio.run(store_key(vectoll, HOSTILE.replace("\x00", "")))
    table = vectoll.ok("keys", "list")
    as_json = vectoll.ok("keys", "list", "--json")
    assert len(table.splitlines()) == 2
    assert r"a\n\x1b[2Jb\x9b31m" in table
    assert all(c.isprintable() or c == "\n" for c in table + as_json)
    assert json.loads(as_json)[0]["name"] == HOSTILE.replace("\x00", "")


def test_long_cell_is_cut_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["x" * MAX_CELL], ["y" * (MAX_CELL + 1)]]
    print_table(["NOTE"], rows)
    assert "y" * (MAX_CELL + 1) in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(["NOTE"], rows)
    shown = capsys.readouterr().out
    assert "x" * MAX_CELL in shown
    assert "y" * (MAX_CELL - 1) + "…" in shown
    assert "y" * MAX_CELL not in shown
