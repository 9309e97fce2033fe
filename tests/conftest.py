"""What every test relies on."""

import sys

import pytest

RECURSION_LIMIT = sys.getrecursionlimit()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Put Python's recursion limit back.

    eth-account, which tests use and vectoll does not, imports py_ecc, and that raises the limit to 100,000: JSON
    that is nested without end then overflows the C stack and kills the process instead of raising RecursionError.
    """
    sys.setrecursionlimit(RECURSION_LIMIT)
