"""vectoll allowance set, list"""

from decimal import Decimal

from tests.unit.cli.conftest import Cli


def test_an_allowance_is_set_listed_and_ended(vectoll: Cli) -> None:
    vectoll.ok("keys", "create", "--name", "a")  # makes the ledger
    granted = vectoll.json("allowance", "set", "--account", "alice", "--usd-per-day", "0.5")
    assert granted == {
        "account": "alice",
        "usd_per_day": Decimal("0.5"),
        "staked_usd": 0,
        "granted_today_usd": Decimal("0.5"),
        "spent_today_usd": 0,
    }
    assert vectoll.json("allowance", "list") == [granted]
    assert vectoll.ok("allowance", "list").splitlines()[1].split() == [
        "alice",
        "$0.500000",
        "$0.000000",
        "$0.500000",
        "$0.000000",
    ]
    assert "alice has $2.000000 a day" in vectoll.ok(
        "allowance", "set", "--account", "alice", "--usd-per-day", "2"
    )
    vectoll.ok("allowance", "set", "--account", "alice", "--usd-per-day", "0")
    assert vectoll.json("allowance", "list") == []
    vectoll.ok("ledger", "verify")


def test_a_wallet_is_one_account_however_its_address_is_written(vectoll: Cli) -> None:
    vectoll.ok("keys", "create", "--name", "a")
    address = "0x" + "Ab" * 20
    granted = vectoll.json("allowance", "set", "--account", address, "--usd-per-day", "1")
    assert granted["account"] == address.lower()


def test_a_wrong_amount_or_account_is_a_usage_error(vectoll: Cli) -> None:
    for account, amount in (("alice", "-1"), ("alice", "lots"), ("$revenue", "1")):
        result = vectoll("allowance", "set", "--account", account, "--usd-per-day", amount)
        assert result.exit_code == 2
