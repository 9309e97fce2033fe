"""Money is an integer of 10⁻¹² USD; no float ever touches an amount.

A token at $0.0125 per million is exactly 12,500 units, so pricing never rounds. Amounts are shown with six
decimals, rounded down: a balance is never shown larger than it is.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext
from typing import NewType

from vectoll.domain.ids import ModelId

Amount = NewType("Amount", int)
"""An amount of money in units of 10⁻¹² USD. Negative only inside system accounts and signed statements."""

UNITS_PER_USD = 10**12
MAX_AMOUNT = Amount(9_000_000 * UNITS_PER_USD)
"""The largest balance or transfer: $9,000,000 stays inside a signed 64-bit integer, SQLite's largest."""

ZERO = Amount(0)


def usd(text: str | int | Decimal) -> Amount:
    """Parse dollars, exactly: ``usd("5")``, ``usd("0.10")``.

    Raises ValueError for anything that is not a plain, finite decimal number within ±``MAX_AMOUNT``, or that is
    finer than 10⁻¹² USD; TypeError for a float: 0.1 is not a tenth.
    """
    if isinstance(text, bool) or not isinstance(text, str | int | Decimal):
        raise TypeError(f"an amount must be a decimal string, not {type(text).__name__}")
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError("not a decimal number") from None
    if not value.is_finite() or (abs(value.adjusted()) > 30 and value != 0):
        raise ValueError("not a decimal number in range")
    with localcontext() as context:
        context.prec = 60
        units = value * UNITS_PER_USD
        if units != units.to_integral_value():
            raise ValueError("finer than 10⁻¹² USD")
    if abs(units) > MAX_AMOUNT:
        raise ValueError("beyond $9,000,000")
    return Amount(int(units))


def to_decimal(amount: Amount) -> Decimal:
    """The exact value in dollars, for a JSON number or further decimal arithmetic."""
    return Decimal(amount).scaleb(-12)


def format_usd(amount: Amount, decimals: int = 6) -> str:
    """Dollars with ``decimals`` places (0 to 12), rounded down (towards minus infinity): ``"4.230000"``."""
    step = 10 ** (12 - decimals)
    scaled = amount // step
    sign = "-" if scaled < 0 else ""
    whole, fraction = divmod(abs(scaled), 10**decimals)
    return f"{sign}{whole}.{fraction:0{decimals}d}" if decimals else f"{sign}{whole}"


def format_exact_usd(amount: Amount) -> str:
    """Dollars with all their places, six at least: ``"0.500000"``, ``"0.0000000125"``."""
    whole, _, fraction = format_usd(amount, decimals=12).partition(".")
    return f"{whole}.{fraction.rstrip('0'):0<6}"


@dataclass(frozen=True, slots=True)
class Price:
    """What one token costs, in units of 10⁻¹² USD."""

    units_per_token: int

    def __post_init__(self) -> None:
        if self.units_per_token < 0:
            raise ValueError("a price cannot be negative")

    @classmethod
    def per_million(cls, dollars: str | int | Decimal) -> "Price":
        """``Price.per_million("0.0125")``. Raises ValueError when one token is not a whole number of units."""
        units, remainder = divmod(usd(dollars), 1_000_000)
        if remainder:
            raise ValueError("a price per million tokens has at most six decimals")
        return cls(units)

    @property
    def usd_per_million(self) -> Decimal:
        """The list price: dollars for a million tokens."""
        return to_decimal(Amount(self.units_per_token * 1_000_000)).normalize()

    def of(self, tokens: int) -> Amount:
        """The exact price of ``tokens`` tokens."""
        return Amount(self.units_per_token * tokens)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a request will cost at most: exact for a local model, an upper bound for an upstream."""

    model: ModelId
    tokens: int
    price: Price

    @property
    def amount(self) -> Amount:
        """The amount to hold."""
        return self.price.of(self.tokens)
