"""The three 402s against the spec's own schemas, as they are written there."""

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from vectoll.domain.money import usd
from vectoll.domain.payments import PaymentOption
from vectoll.domain.siwx import BASE, SOLANA
from vectoll.http.payment_required import PaymentTerms
from vectoll.http.responses import json_bytes

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SCHEMAS = yaml.safe_load((Path(__file__).parents[2] / "chains/payment_required.schema.yaml").read_text())
DISCOVERY, WALLET = SCHEMAS["X402InferencePaymentRequired"]["anyOf"]
OPTIONS = (
    PaymentOption(BASE, "0x" + "a1" * 20, "0x" + "b2" * 20, {"name": "USD Coin", "version": "2"}),
    PaymentOption(SOLANA, "Mint1", "Owner1", {"feePayer": "Fee1"}, "Ata1"),
)
TERMS = PaymentTerms("https://api.example.com", OPTIONS)


def body(value: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(json_bytes(value), parse_float=Decimal)
    return decoded


def check(value: Any, schema: Any) -> dict[str, Any]:
    decoded = body(value)
    numbers = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "number", lambda _, instance: isinstance(instance, int | Decimal) and not isinstance(instance, bool)
    )
    validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, type_checker=numbers
    )
    validator(schema).validate(decoded)
    return decoded


def test_discovery_is_as_the_spec_draws_it_and_names_base_first() -> None:
    found = check(TERMS.discovery("/api/v1/embeddings", NOW), DISCOVERY)
    assert [entry["network"] for entry in found["accepts"]] == [BASE, SOLANA]
    assert {entry["amount"] for entry in found["accepts"]} == {"5000000"}
    assert found["resource"]["url"] == "https://api.example.com/api/v1/embeddings"
    assert found["authOptions"]["x402Wallet"]["topUp"] == "POST https://api.example.com/api/v1/x402/top-up"
    assert "venice" not in json.dumps(found, default=str).lower()


def test_a_wallet_with_too_little_credit_is_told_as_the_spec_draws_it() -> None:
    asked = TERMS.wallet_payment_required("/api/v1/embeddings", NOW, usd("0.01"), "Insufficient x402 balance")
    found = check(asked, WALLET)
    assert found["currentBalanceUsd"] == Decimal("0.01")
    assert found["minimumBalanceUsd"] == Decimal("0.1")
    assert found["supportedChains"] == ["base", "solana"]
    assert set(found) == set(WALLET["properties"]), "every member that the spec has"


def test_top_up_discovery_is_as_the_neighbour_draws_it() -> None:
    found = check(TERMS.top_up_discovery(), SCHEMAS["TopUpPaymentRequired"])
    assert found["accepts"][1]["extra"] == {"feePayer": "Fee1"}


def test_the_header_is_what_stock_x402_clients_decode() -> None:
    header = json.loads(base64.b64decode(TERMS.header("/api/v1/embeddings", NOW), validate=True))
    assert set(header) == {"x402Version", "error", "resource", "accepts", "extensions"}
    extension = header["extensions"]["sign-in-with-x"]
    assert extension["info"]["domain"] == "api.example.com"
    assert extension["info"]["uri"] == "https://api.example.com/api/v1/embeddings"
    assert extension["supportedChains"] == [
        {"chainId": BASE, "type": "eip191"},
        {"chainId": BASE, "type": "eip1271"},
        {"chainId": SOLANA, "type": "ed25519"},
    ]
    jsonschema.Draft202012Validator.check_schema(extension["schema"])


def test_every_challenge_has_a_nonce_of_its_own_and_ends_in_five_minutes() -> None:
    one, two = (TERMS.challenge("/x", NOW).info for _ in range(2))
    assert one.nonce != two.nonce
    assert (one.issuedAt, one.expirationTime) == ("2026-11-22T12:00:00.000Z", "2026-11-22T12:05:00.000Z")


@pytest.mark.parametrize("option", OPTIONS)
def test_one_network_alone_will_do(option: PaymentOption) -> None:
    terms = PaymentTerms("http://127.0.0.1:8787", [option])
    check(terms.discovery("/v1/embeddings", NOW), DISCOVERY)
    check(terms.wallet_payment_required("/x", NOW, usd("0"), "m"), WALLET)
    assert terms.challenge("/x", NOW).info.domain == "127.0.0.1:8787"
