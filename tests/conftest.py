"""What every test relies on."""

import sys
from collections.abc import Iterator

import hypothesis
import pytest
from tests.postgres import PostgresServer, make_schema, run_apart, run_postgres

hypothesis.settings.register_profile(
    "untimed", deadline=None
)  # machines are noisy: timed claims are for benchmarks
hypothesis.settings.load_profile("untimed")

RECURSION_LIMIT = sys.getrecursionlimit()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Put Python's recursion limit back.

    eth-account, which tests use and vectoll does not, imports py_ecc, and that raises the limit to 100,000: JSON
    that is nested without end then overflows the C stack and kills the process instead of raising RecursionError.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests that ask for it."""
    with run_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def database_url(postgres: PostgresServer) -> str:
    """A database with the schema; ``emptied`` makes it empty for the next test."""
    url = postgres.new_database()
    run_apart(make_schema(url))
    return url
