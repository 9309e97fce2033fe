"""What a mixed run costs is the same number wherever it is shown."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import pytest
from openai import OpenAI, OpenAIError
from tests.acceptance.expected import TEXTS
from tests.live import MODEL, UNITS_PER_TOKEN, Key, Server, Vectoll

CREDIT = Decimal(5)


@pytest.fixture(scope="module")
def spent_tokens(server: Server, key: Key) -> int:
    """A mixed run on the module's key: text, batches, ids, both formats, and what fails. Returns what was metered."""
    requests: list[dict[str, Any]] = [
        {"input": "one text"},
        {"input": TEXTS * 20},
        {"input": TEXTS, "encoding_format": "float"},
        {"input": [101, 7592, 2088, 102]},
        {"input": [[101, 7592, 102]] * 3, "encoding_format": "base64"},
        {"input": [f"distinct text number {i}" for i in range(500)]},
        {"input": "x", "dimensions": 384},
    ]
    failing: list[dict[str, Any]] = [
        {"input": ""},
        {"input": "word " * 300},
        {"input": "x", "dimensions": 1},
        {"input": [999_999]},
    ]
    tokens = 0
    with OpenAI(base_url=f"{server.url}/v1", api_key=key.secret, max_retries=0) as client:
        for request in requests * 3:
            tokens += client.embeddings.create(model=MODEL, **request).usage.total_tokens
        for request in failing:
            with pytest.raises(OpenAIError):
                client.embeddings.create(model=MODEL, **request)
    return tokens


def cost(tokens: int) -> Decimal:
    return Decimal(tokens * UNITS_PER_TOKEN).scaleb(-12)


def test_usage_history_adds_up_to_tokens_times_price(server: Server, key: Key, spent_tokens: int) -> None:
    charges = server.charges(key)
    assert len(charges) == 21
    assert sum(charge.tokens for charge in charges) == spent_tokens
    assert sum(charge.amount for charge in charges) == cost(spent_tokens)


def test_usage_history_as_csv_says_the_same(server: Server, key: Key, spent_tokens: int) -> None:
    with server.client(key) as client:
        answer = client.get("/api/v1/billing/usage-history", headers={"accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert -sum(Decimal(row["amount"]) for row in rows) == cost(spent_tokens)


def test_balance_is_the_credit_less_the_cost(server: Server, key: Key, spent_tokens: int) -> None:
    with server.client(key) as client:
        answer = client.get("/api/v1/billing/balance")
    shown = json.loads(answer.text, parse_float=Decimal)["balances"]["usd"]
    assert 0 <= CREDIT - cost(spent_tokens) - shown < Decimal("0.000001")  # six decimals, rounded down


def test_usage_command_says_the_same(vectoll: Vectoll, key: Key, spent_tokens: int) -> None:
    [row] = [row for row in vectoll.json("usage") if row["key"] == key.id]
    assert (row["model"], row["requests"], row["tokens"]) == (MODEL, 21, spent_tokens)
    assert row["charged_usd"] == cost(spent_tokens)


def test_ledger_verifies_clean(vectoll: Vectoll, spent_tokens: int) -> None:
    vectoll.verify()
