"""vectoll credit, usage, ledger verify"""

import asyncio
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Cli

from vectoll.adapters.storage.sqlite import SqliteKeys, SqliteLedger, open_sqlite
from vectoll.cli.output import dollars
from vectoll.domain.errors import OutcomeUnknown
from vectoll.domain.identity import ApiKey, Principal
from vectoll.domain.ids import AccountId, KeyId, ModelId, RequestId, TransferId, new_id
from vectoll.domain.ledger import Hold, Transfer
from vectoll.domain.money import Amount, Price, Quote
from vectoll.ports.clock import SystemClock


def test_credit_goes_to_an_account_or_to_that_of_a_key(vectoll: Cli) -> None:
    key = vectoll.json("keys", "create", "--name", "a", "--account", "alice")
    assert vectoll.json("credit", "add", "--account", "alice", "--usd", "1")["balance_usd"] == 1
    by_key = vectoll.json("credit", "add", "--key", key["id"], "--usd", "0.5", "--note", "thanks")
    assert (by_key["account"], by_key["balance_usd"]) == ("alice", Decimal("1.5"))
    vectoll.ok("ledger", "verify")


def test_small_amounts_are_said_as_they_are(vectoll: Cli) -> None:
    open_account(vectoll, "alice")
    vectoll.ok("keys", "create", "--name", "b", "--account", "alice", "--limit-usd", "0.005")
    assert " $0.005000/MONTH " in vectoll.ok("keys", "list")
    told = vectoll.ok("credit", "add", "--account", "alice", "--usd", "0.000000025")
    assert told == "Added $0.000000025 to alice, which now has $0.000000025.\n"


def open_account(vectoll: Cli, account: str, dollars: str = "0") -> None:
    vectoll.ok("keys", "create", "--name", "a", "--account", account, "--credit-usd", dollars)


def test_credit_with_an_id_is_given_once_and_says_so(vectoll: Cli) -> None:
    open_account(vectoll, "alice")
    command = ("credit", "add", "--account", "alice", "--usd", "2", "--id", "invoice-7")
    for is_new in (True, False, False):
        added = vectoll.json(*command)
        assert (added["balance_usd"], added["added"]) == (2, is_new)
    assert "was already added to alice under this --id" in vectoll.ok(*command)
    assert (
        vectoll.json("credit", "add", "--account", "alice", "--usd", "2", "--id", "invoice-8")["balance_usd"]
        == 4
    )


@pytest.mark.parametrize("lost", [OutcomeUnknown("the database is gone"), KeyboardInterrupt()])
def test_credit_whose_outcome_is_unknown_says_how_it_is_not_given_twice(
    vectoll: Cli, monkeypatch: pytest.MonkeyPatch, lost: BaseException
) -> None:
    post = SqliteLedger.post

    async def post_unheard(ledger: SqliteLedger, transfer: Transfer) -> Transfer:
        await post(ledger, transfer)
        raise lost

    open_account(vectoll, "alice")
    with monkeypatch.context() as database:
        database.setattr(SqliteLedger, "post", post_unheard)
        result = vectoll("credit", "add", "--account", "alice", "--usd", "2")
    assert result.exit_code == 1
    assert "may have been added" in result.stderr
    [said] = re.findall(r"--id (\w+)", result.stderr)
    assert vectoll.json("credit", "add", "--account", "alice", "--usd", "2", "--id", said)["balance_usd"] == 2


def test_key_with_credit_whose_outcome_is_unknown_says_how_it_is_not_given_twice(
    vectoll: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add_unheard(keys: SqliteKeys, key: ApiKey) -> None:
        raise OutcomeUnknown("the database is gone")

    with monkeypatch.context() as database:
        database.setattr(SqliteKeys, "add", add_unheard)
        result = vectoll("keys", "create", "--name", "k", "--account", "alice", "--credit-usd", "2.5")
    assert result.exit_code == 1
    [command] = re.findall(r"`vectoll ([^`]+)`", result.stderr)
    assert vectoll.json(*command.split())["balance_usd"] == Decimal("2.5")


@pytest.mark.parametrize("other", [("--account", "alice", "--usd", "3"), ("--account", "bob", "--usd", "2")])
def test_id_of_another_credit_is_refused(vectoll: Cli, other: tuple[str, ...]) -> None:
    open_account(vectoll, "alice")
    open_account(vectoll, "bob")
    vectoll.ok("credit", "add", "--account", "alice", "--usd", "2", "--id", "invoice-7")
    result = vectoll("credit", "add", *other, "--id", "invoice-7")
    assert result.exit_code == 1
    assert "--id was already used for another amount or account" in result.stderr
    assert vectoll.json("credit", "add", "--account", "alice", "--usd", "1")["balance_usd"] == 3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--usd", "1"), 2),
        (("--usd", "1", "--account", "a", "--key", "key_x"), 2),
        (("--usd", "0", "--account", "a"), 2),
        (("--usd", "1", "--key", "key_x"), 1),
        (("--account", "a"), 2),
    ],
)
def test_wrong_credit_is_refused(vectoll: Cli, options: tuple[str, ...], code: int) -> None:
    open_account(vectoll, "a")
    assert vectoll("credit", "add", *options).exit_code == code


def test_credit_of_an_earlier_month_is_not_given_again(vectoll: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    open_account(vectoll, "alice")
    command = ("credit", "add", "--account", "alice", "--usd", "2", "--id", "invoice-7")
    with monkeypatch.context() as patch:
        patch.setattr("vectoll.cli.credit.datetime", LastMonth)
        assert vectoll.json(*command)["added"]
    assert not vectoll.json(*command)["added"]


class LastMonth(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(tz) - timedelta(days=31)


def test_a_key_for_an_id_of_our_making_that_nobody_has_is_not_made(vectoll: Cli) -> None:
    first = vectoll.json("keys", "create", "--name", "n")
    result = vectoll("keys", "create", "--name", "n", "--account", "acct_mistyped", "--credit-usd", "1")
    assert (result.exit_code, result.stderr) == (1, "Error: there is no account acct_mistyped\n")
    assert [key["id"] for key in vectoll.json("keys", "list")] == [first["id"]]
    vectoll.ok("keys", "create", "--name", "n", "--account", first["account"])


def test_credit_to_an_id_of_our_making_that_nobody_has_is_mistyped(vectoll: Cli) -> None:
    open_account(vectoll, "alice")
    result = vectoll("credit", "add", "--account", "acct_mistyped", "--usd", "1")
    assert result.exit_code == 1
    assert "there is no account acct_mistyped" in result.stderr
    ours = vectoll.json("keys", "create", "--name", "k")["account"]
    assert vectoll.json("credit", "add", "--account", ours, "--usd", "1")["balance_usd"] == 1
    assert vectoll.json("credit", "add", "--account", "who-comes-later", "--usd", "1")["balance_usd"] == 1


def test_credit_is_taken_back_as_far_as_it_goes(vectoll: Cli) -> None:
    open_account(vectoll, "alice", "5")
    command = ("credit", "remove", "--account", "alice", "--usd", "2", "--note", "typo", "--id", "t-1")
    for is_new in (True, False):
        taken = vectoll.json(*command)
        assert (taken["account"], taken["balance_usd"], taken["removed"]) == ("alice", 3, is_new)
    assert "was already taken from alice under this --id" in vectoll.ok(*command)
    assert "which now has $2.000000" in vectoll.ok("credit", "remove", "--account", "alice", "--usd", "1")
    too_much = vectoll("credit", "remove", "--account", "alice", "--usd", "2.5")
    assert too_much.exit_code == 1
    assert "alice has $2.000000: $2.500000 cannot be taken from it" in too_much.stderr
    unknown = vectoll("credit", "remove", "--account", "acct_nobodys", "--usd", "1")
    assert (unknown.exit_code, unknown.stderr) == (1, "Error: there is no account acct_nobodys\n")
    vectoll.ok("ledger", "verify")


def test_accounts_show_what_they_have(vectoll: Cli) -> None:
    key = vectoll.json(*("keys", "create", "--name", "n", "--account", "alice", "--credit-usd", "5"))
    gone = vectoll.json("keys", "create", "--name", "gone", "--account", "alice")
    vectoll.ok("keys", "revoke", gone["id"])
    vectoll.ok("allowance", "set", "--account", "bob", "--usd-per-day", "0.5")
    alice = {
        "account": "alice",
        "balance_usd": 5,
        "held_usd": None,
        "allowance_usd": 0,
        "allowance_left_usd": 0,
        "active_keys": 1,
    }
    bob = alice | {
        "account": "bob",
        "balance_usd": 0,
        "allowance_usd": Decimal("0.5"),
        "allowance_left_usd": Decimal("0.5"),
        "active_keys": 0,
    }
    assert vectoll.json("accounts", "list") == [alice, bob]
    assert vectoll.json("accounts", "show", "alice") == alice | {"keys": [{"id": key["id"], "name": "n"}]}
    assert "credit     $5.000000" in vectoll.ok("accounts", "show", "alice")
    assert [line.split()[:2] for line in vectoll.ok("accounts", "list").splitlines()[1:]] == [
        ["alice", "$5.000000"],
        ["bob", "$0.000000"],
    ]
    for command in (("accounts", "show"), ("usage", "--account"), ("keys", "list", "--account")):
        missing = vectoll(*command, "nobody")
        assert (missing.exit_code, missing.stderr) == (1, "Error: there is no account nobody\n")
    assert vectoll.json("usage", "--account", "alice") == []
    assert vectoll.json("keys", "list", "--account", "bob") == []


class At(SystemClock):
    """A clock that stands still."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def charge(
    data_dir: Path, account: str, key: str | None, tokens: int, at: datetime, model: str = "m"
) -> None:
    """What the server does for a request."""

    async def run() -> None:
        store = await open_sqlite(data_dir, At(at))
        principal = Principal(AccountId(account), KeyId(key) if key else None)
        quote = Quote(ModelId(model), tokens, Price.per_million("1"))
        hold = Hold(TransferId(new_id("chg")), principal, quote, RequestId("req"))
        await store.ledger.hold(hold)
        await store.ledger.charge(hold, tokens, 1)
        await store.close()

    asyncio.run(run())


def test_usage_adds_up_by_account_key_and_model(vectoll: Cli) -> None:
    now = datetime.now(UTC)
    key = vectoll.json("keys", "create", "--name", "a", "--account", "alice", "--credit-usd", "5")["id"]
    open_account(vectoll, "bob", "5")
    charge(vectoll.data_dir, "alice", key, 1000, now)
    charge(vectoll.data_dir, "alice", key, 500, now)
    charge(vectoll.data_dir, "alice", key, 10, now, model="n")
    charge(vectoll.data_dir, "bob", None, 2000, now)
    rows = vectoll.json("usage")
    assert [(r["account"], r["key"], r["model"], r["requests"], r["tokens"]) for r in rows] == [
        ("bob", None, "m", 1, 2000),
        ("alice", key, "m", 2, 1500),
        ("alice", key, "n", 1, 10),
    ]
    assert [r["charged_usd"] for r in rows] == [Decimal("0.002"), Decimal("0.0015"), Decimal("0.00001")]
    assert [r["account"] for r in vectoll.json("usage", "--account", "bob")] == ["bob"]
    assert "$0.003510 since" in vectoll.ok("usage")


def test_charge_is_never_shown_as_nothing(vectoll: Cli) -> None:
    open_account(vectoll, "bob", "5")
    charge(vectoll.data_dir, "bob", None, 0, datetime.now(UTC))
    assert "$0.000000 since" in vectoll.ok("usage")
    assert dollars(Amount(12_500 * 2)) == "$0.000000025"
    assert dollars(Amount(10**6)) == "$0.000001"
    assert dollars(Amount(4_230_000_999_999)) == "$4.230000"


def test_usage_counts_from_since_across_months(vectoll: Cli) -> None:
    now = datetime.now(UTC)
    open_account(vectoll, "bob", "5")
    for days in (100, 70, 40, 20, 1):
        charge(vectoll.data_dir, "bob", None, days, now - timedelta(days=days))

    def tokens(*options: str) -> int:
        rows: list[dict[str, Any]] = vectoll.json("usage", *options)
        return sum(row["tokens"] for row in rows)

    assert tokens() == 20 + 1
    assert tokens("--since", "75d") == 70 + 40 + 20 + 1
    assert tokens("--since", f"{now - timedelta(days=101):%Y-%m-%d}") == 100 + 70 + 40 + 20 + 1
    assert tokens("--since", "36h") == 1
    assert vectoll.json("usage", "--since", "1h") == []


def test_verify_says_what_disagrees_and_fails(vectoll: Cli) -> None:
    open_account(vectoll, "bob", "5")
    assert "2 accounts, 1 transfer: clean" in vectoll.ok("ledger", "verify")
    assert vectoll.json("ledger", "verify")["disagreements"] == []
    with sqlite3.connect(vectoll.data_dir / "vectoll.sqlite3") as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert "accounts" in tables, tables
        database.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 'bob'")
    database.close()
    result = vectoll("ledger", "verify")
    assert result.exit_code == 1
    assert "bob" in result.stdout
    assert vectoll("ledger", "verify", "--json").exit_code == 1
