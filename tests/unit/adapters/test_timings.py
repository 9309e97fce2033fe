"""Our histogram says what prometheus_client's says."""

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from vectoll.adapters.timings import Timings

BOUNDS = (0.1, 0.5, 2)
SEEN = (0.0, 0.1, 0.100001, 0.5, 1.99, 2.0, 7.0)


def test_counts_as_the_library_does() -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    timings = Timings("x_seconds", "What it is.", ("model", "stage"), BOUNDS, ours)
    histogram = Histogram("x_seconds", "What it is.", ("model", "stage"), buckets=BOUNDS, registry=theirs)
    for number, seconds in enumerate(SEEN):
        labels = ("m", f"s{number % 2}")
        timings.observe(labels, seconds)
        histogram.labels(*labels).observe(seconds)
    created = b"x_seconds_created"
    expected = [line for line in generate_latest(theirs).splitlines() if created not in line]
    assert generate_latest(ours).splitlines() == expected


def test_nothing_observed_is_shown_as_nothing() -> None:
    registry = CollectorRegistry()
    Timings("x_seconds", "What it is.", ("model",), BOUNDS, registry)
    assert b"x_seconds_bucket" not in generate_latest(registry)
