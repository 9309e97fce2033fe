"""Line charts as SVG, by hand: both axes logarithmic, readable on light and dark pages. No dependency."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 300
LEFT, RIGHT, TOP, BOTTOM = 66, 16, 14, 46
COLORS = ("#2b7bba", "#d9782d", "#3a9a5b")


@dataclass(frozen=True)
class Line:
    """One curve; every number is above zero."""

    title: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """A logarithmic scale from ``low`` to ``high``, drawn from ``start`` to ``end`` in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """Powers of ten, and 2 and 5 between them where there are few."""
        decades = math.log10(self.high / self.low)
        steps = (1,) if decades > 3 else (1, 2, 5)
        for power in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            for step in steps:
                if self.low <= (value := step * 10.0**power) <= self.high:
                    yield value


def _axis(values: Sequence[float], start: float, end: float, least_span: float) -> Axis:
    low, high = min(values), max(values)
    middle = math.sqrt(low * high)
    low, high = min(low * 0.9, middle / least_span), max(high * 1.1, middle * least_span)
    return Axis(low, high, start, end)


def plot(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """The chart as a document. A flat curve looks flat: the vertical axis spans at least a factor of ten."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = (
        Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT) if len(set(xs)) > 1 else _axis(xs, LEFT, WIDTH - RIGHT, 2)
    )
    up = _axis(ys, HEIGHT - BOTTOM, TOP, math.sqrt(10))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="11" fill="#777">',
        f"<title>{escape(y_label)} against {escape(x_label)}</title>",
    ]
    for x in across.ticks():
        at = across.at(x)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#888" stroke-opacity=".25"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(x)}</text>'
        )
    for y in up.ticks():
        at = up.at(y)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#888" stroke-opacity=".25"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    for number, (line, color) in enumerate(zip(lines, COLORS, strict=False)):
        places = [(across.at(x), up.at(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
        if len(lines) > 1:
            y = TOP + 14 + 15 * number
            parts.append(
                f'<text x="{LEFT + 10}" y="{y}" fill="{color}" font-weight="bold">{escape(line.title)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _number(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if value >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:g}"
