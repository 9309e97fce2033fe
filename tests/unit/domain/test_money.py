"""Money: exact both ways, and clear about what it is not."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.domain.ids import ModelId
from vectoll.domain.money import (
    MAX_AMOUNT,
    UNITS_PER_USD,
    Amount,
    Price,
    Quote,
    format_exact_usd,
    format_usd,
    to_decimal,
    usd,
)

AMOUNTS = st.integers(-MAX_AMOUNT, MAX_AMOUNT).map(Amount)
DECIMALS = st.integers(0, 12)


@given(AMOUNTS)
def test_usd_reads_what_format_usd_writes_in_full(amount: Amount) -> None:
    assert usd(format_usd(amount, decimals=12)) == amount


@given(AMOUNTS)
def test_usd_reads_what_to_decimal_gives(amount: Amount) -> None:
    assert usd(to_decimal(amount)) == amount
    assert usd(str(to_decimal(amount))) == amount


@given(AMOUNTS, DECIMALS)
def test_format_usd_is_the_largest_number_of_its_decimals_that_is_not_more(
    amount: Amount, decimals: int
) -> None:
    text = format_usd(amount, decimals)
    step = 10 ** (12 - decimals)
    shown = int(Decimal(text) * UNITS_PER_USD)
    assert shown <= amount < shown + step
    assert len(text.partition(".")[2]) == decimals
    assert "e" not in text.lower()


@pytest.mark.parametrize(
    ("amount", "decimals", "text"),
    [
        (0, 6, "0.000000"),
        (4_230_000_999_999, 6, "4.230000"),
        (-1, 6, "-0.000001"),
        (-1, 12, "-0.000000000001"),
        (1_999_999_999_999, 0, "1"),
        (-1, 0, "-1"),
        (MAX_AMOUNT, 0, "9000000"),
    ],
)
def test_format_usd_examples(amount: int, decimals: int, text: str) -> None:
    assert format_usd(Amount(amount), decimals) == text


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("5", 5 * UNITS_PER_USD),
        ("0.10", UNITS_PER_USD // 10),
        ("-0.000000000001", -1),
        ("1e-12", 1),
        ("9000000", MAX_AMOUNT),
        (7, 7 * UNITS_PER_USD),
        (Decimal("2.50"), 25 * UNITS_PER_USD // 10),
        ("0e-99", 0),
    ],
)
def test_usd_examples(text: str | int | Decimal, units: int) -> None:
    assert usd(text) == units


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "nan",
        "inf",
        "-Infinity",
        "1e999999",
        "1e31",
        "9000000.000000000001",
        "0.0000000000001",
        "$5",
        "1,5",
    ],
)
def test_usd_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"decimal|finer|beyond"):
        usd(text)


@pytest.mark.parametrize("value", [0.1, True, None, b"5"])
def test_usd_refuses_what_is_no_text(value: object) -> None:
    with pytest.raises(TypeError):
        usd(value)  # type: ignore[arg-type]


@given(st.text(max_size=20))
def test_usd_of_any_text_is_exact_or_a_value_error(text: str) -> None:
    try:
        amount = usd(text)
    except ValueError:
        return
    assert Decimal(amount) == Decimal(text).scaleb(12)


@given(st.integers(0, 9_000_000 * 10**6))
def test_price_per_million_round_trips(micro_dollars: int) -> None:
    dollars = Decimal(micro_dollars).scaleb(-6)
    price = Price.per_million(dollars)
    assert price.usd_per_million == dollars
    assert price.of(1_000_000) == usd(dollars)


def test_the_hosted_price_is_whole_units() -> None:
    assert Price.per_million("0.0125").units_per_token == 12_500


@pytest.mark.parametrize("dollars", ["0.0000001", "-1"])
def test_price_refuses_fractions_of_a_unit_and_negatives(dollars: str) -> None:
    with pytest.raises(ValueError, match=r"six decimals|negative"):
        Price.per_million(dollars)


@given(st.integers(0, 10**9), st.lists(st.integers(0, 10**6), max_size=20))
def test_price_of_parts_adds_up_to_the_price_of_the_whole(units: int, parts: list[int]) -> None:
    price = Price(units)
    assert sum(price.of(tokens) for tokens in parts) == price.of(sum(parts))
    assert Quote(ModelId("m"), sum(parts), price).amount == price.of(sum(parts))


@pytest.mark.parametrize(
    ("units", "text"),
    [
        (0, "0.000000"),
        (1, "0.000000000001"),
        (12_500, "0.0000000125"),
        (5 * 10**11, "0.500000"),
        (10**12 + 10**5, "1.0000001"),
        (-12_500, "-0.0000000125"),
    ],
)
def test_exact_dollars_have_the_places_that_they_need(units: int, text: str) -> None:
    assert format_exact_usd(Amount(units)) == text
