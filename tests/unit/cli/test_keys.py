"""vectoll keys"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from tests.unit.cli.conftest import Cli


def test_create_prints_the_secret_once_and_the_rest_elsewhere(vectoll: Cli) -> None:
    result = vectoll("keys", "create", "--name", "a", "--credit-usd", "5")
    assert result.exit_code == 0, result.output
    secret = result.stdout.strip()
    assert secret.startswith("vtk_")
    assert "\n" not in secret  # KEY=$(vectoll keys create …) works
    assert "$5.000000" in result.stderr
    assert secret not in vectoll.ok("keys", "list") + vectoll.ok("keys", "list", "--json")


@pytest.mark.parametrize("name", ["a\0b", "a\udcff"], ids=ascii)
def test_a_name_that_cannot_be_stored_is_refused(vectoll: Cli, name: str) -> None:
    result = vectoll("keys", "create", "--name", name)
    assert result.exit_code == 2
    assert "--name" in result.stderr


def test_create_as_json_has_id_and_key(vectoll: Cli) -> None:
    created = vectoll.json(
        *("keys", "create", "--name", "n", "--credit-usd", "0.000000000001", "--admin", "--pro"),
        *("--account", "alice", "--limit-usd", "2.5", "--limit-period", "epoch", "--expires", "90d"),
    )
    assert created["key"].startswith("vtk_")
    assert created["id"].startswith("key_")
    assert created["account"] == "alice"
    assert created["balance_usd"] == Decimal("0.000000000001")
    assert (created["kind"], created["pro"]) == ("ADMIN", True)
    assert (created["limit_usd"], created["limit_period"]) == (Decimal("2.5"), "EPOCH")
    expires_at = datetime.fromisoformat(created["expires_at"])
    assert timedelta(days=89, hours=23) < expires_at - datetime.now(UTC) <= timedelta(days=90)


def test_keys_of_one_account_share_its_credit_and_others_do_not(vectoll: Cli) -> None:
    first = vectoll.json("keys", "create", "--name", "a", "--credit-usd", "5")
    second = vectoll.json("keys", "create", "--name", "b", "--account", first["account"], "--credit-usd", "1")
    third = vectoll.json("keys", "create", "--name", "c")
    assert second["balance_usd"] == 6
    assert third["balance_usd"] == 0
    assert third["account"] != first["account"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--credit-usd", "-1"), "cannot be negative"),
        (("--credit-usd", "five"), "not an amount of dollars"),
        (("--credit-usd", "1e99"), "not an amount of dollars"),
        (("--credit-usd", "NaN"), "not an amount of dollars"),
        (("--credit-usd", "9000001"), "not an amount of dollars"),
        (("--limit-usd", "0.0000000000001"), "not an amount of dollars"),
        (("--account", "$revenue:2026-11"), "an account id is"),
        (("--account", "a b"), "an account id is"),
        (("--expires", "yesterday"), "is not a date"),
        (("--expires", "9999-12-31T23:59-14:00"), "is not a date"),
        (("--expires", "2020-01-01"), "must be in the future"),
        (("--limit-period", "YEAR"), "YEAR"),
        (("--limit-period", "EPOCH"), "--limit-period needs --limit-usd"),
        (("--name", ""), "1 to 64 characters"),
        (("--name", "x" * 65), "1 to 64 characters"),
        (("--name", "a\nb"), "none of them a control character"),
        (("--name", "\x9b31m"), "none of them a control character"),
    ],
)
def test_wrong_option_is_refused_and_makes_nothing(vectoll: Cli, options: tuple[str, ...], says: str) -> None:
    result = vectoll("keys", "create", "--name", "a", *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not vectoll.data_dir.exists()


def test_list_shows_active_keys_and_all_on_request(vectoll: Cli) -> None:
    kept = vectoll.json("keys", "create", "--name", "kept", "--account", "alice")
    gone = vectoll.json("keys", "create", "--name", "gone", "--account", "bob")
    vectoll.ok("keys", "revoke", gone["id"])
    assert [key["id"] for key in vectoll.json("keys", "list")] == [kept["id"]]
    assert [key["id"] for key in vectoll.json("keys", "list", "--all")] == [kept["id"], gone["id"]]
    assert vectoll.json("keys", "list", "--all", "--account", "bob")[0]["revoked_at"] is not None
    table = vectoll.ok("keys", "list", "--all").splitlines()
    assert [line.split()[1] for line in table] == ["NAME", "kept", "gone"]
    assert [line.split()[-1] for line in table] == ["STATE", "active", "revoked"]
    assert "\033" not in "".join(table)


def test_revoke_says_whether_it_was_needed_and_knows_the_key(vectoll: Cli) -> None:
    key = vectoll.json("keys", "create", "--name", "a")
    assert vectoll.json("keys", "revoke", key["id"]) == {"id": key["id"], "revoked": True}
    assert vectoll.json("keys", "revoke", key["id"]) == {"id": key["id"], "revoked": False}


def test_revoke_of_a_secret_does_not_repeat_it(vectoll: Cli) -> None:
    key = vectoll.json("keys", "create", "--name", "a")
    result = vectoll("keys", "revoke", key["key"])
    assert result.exit_code == 1
    assert "there is no key with this id" in result.stderr
    assert key["key"] not in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "list"),
        ("keys", "revoke", "key_x"),
        ("ledger", "verify"),
        ("usage",),
        ("accounts", "list"),
        ("credit", "add", "--account", "alice", "--usd", "1"),
        ("allowance", "set", "--account", "alice", "--usd-per-day", "1"),
    ],
)
def test_commands_for_what_is_there_make_no_ledger(vectoll: Cli, command: tuple[str, ...]) -> None:
    result = vectoll(*command)
    assert result.exit_code == 2
    assert "there is no ledger in" in result.stderr
    assert not vectoll.data_dir.exists()
