"""Which metrics and labels a PromQL expression names. Whether it is well-formed is promtool's to say."""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    | (?P<range>\[[^\]]*\])
    | (?P<number>\d[\w.]*)
    | (?P<name>[a-zA-Z_:][\w:]*)
    | (?P<mark>=~|!~|!=|==|<=|>=|.)""",
    re.VERBOSE,
)
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}
OF_THE_SCRAPE = {"up": {"job", "instance"}}
"""What Prometheus adds by itself: to every series, and as a series."""


@dataclass(frozen=True)
class Expression:
    """What one expression names."""

    selectors: tuple[tuple[str, frozenset[str]], ...]
    """Each metric, with the labels that are matched on it."""
    grouped_by: frozenset[str]


def parse(text: str) -> Expression:
    """``sum by (a) (rate(m{b="c"}[5m]))`` → m with b, grouped by a."""
    tokens = [(kind, m[0]) for m in TOKEN.finditer(text) if (kind := m.lastgroup)]
    selectors, grouped = [], set()
    position = 0
    while position < len(tokens):
        kind, word = tokens[position]
        following = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        position += 1
        if kind != "name":
            continue
        if word in GROUPING and following == "(":
            labels, position = _until(")", tokens, position)
            grouped |= labels
        elif following == "{":
            labels, position = _until("}", tokens, position)
            selectors.append((word, frozenset(labels)))
        elif following not in {"(", "by", "without"} and word.lower() not in WORDS:
            selectors.append((word, frozenset()))
    return Expression(tuple(selectors), frozenset(grouped))


def _until(end: str, tokens: list[tuple[str, str]], position: int) -> tuple[set[str], int]:
    labels = set()
    while tokens[position][1] != end:
        if tokens[position][0] == "name":
            labels.add(tokens[position][1])
        position += 1
    return labels, position + 1


def unknown(text: str, exposed: Mapping[str, AbstractSet[str]]) -> Iterator[str]:
    """What an expression names that ``exposed``, metrics and their labels, does not have."""
    expression = parse(text)
    everywhere = OF_THE_SCRAPE["up"]
    known = {**exposed, **OF_THE_SCRAPE}
    on_these: set[str] = set(everywhere)
    for metric, labels in expression.selectors:
        if metric not in known:
            yield f"{metric} is no metric"
            continue
        on_these |= known[metric]
        yield from (f"{metric} has no label {label}" for label in sorted(labels - known[metric] - everywhere))
    yield from (f"nothing here has a label {label}" for label in sorted(expression.grouped_by - on_these))
