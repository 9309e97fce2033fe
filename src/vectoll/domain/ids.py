"""Identifiers. A NewType each, so that a type checker tells one from another."""

import os
import random
import re
import time
from typing import NewType

ModelId = NewType("ModelId", str)
AccountId = NewType("AccountId", str)
KeyId = NewType("KeyId", str)
TransferId = NewType("TransferId", str)
RequestId = NewType("RequestId", str)

_random = random.Random()  # noqa: S311 - ids, not secrets
os.register_at_fork(after_in_child=_random.seed)


def new_id(prefix: str) -> str:
    """``prefix_`` and 32 hex digits: 48 bits of Unix milliseconds, then 80 random bits.

    Ids sort by time, so a database index on them grows at its end and an insert costs the same at any size
    (the layout of UUIDv7, RFC 9562 §5.7, without its version bits). Unique, not unguessable: an id is no secret, so
    the bits come from a generator that the system seeded, not from a system call for each.
    """
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"


_ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@|/+=~-]{0,127}")


def new_account() -> AccountId:
    """An account for whom nobody chose an id: ``acct_…``."""
    return AccountId(new_id("acct"))


def is_generated(account: AccountId) -> bool:
    """Whether an account's id is of ``new_account``'s making."""
    return account.startswith("acct_")


def parse_account(text: str) -> AccountId:
    """A customer's id as an operator or a token issuer wrote it. Raises ValueError.

    1 to 128 of ``A-Z a-z 0-9 . _ : @ | / + = ~ -``, starting with a letter or digit, so never a system account.
    """
    if not _ACCOUNT.fullmatch(text):
        raise ValueError(
            "an account id is 1 to 128 characters of A-Z a-z 0-9 . _ : @ | / + = ~ -, a letter or digit first"
        )
    return AccountId(text)


def parse_text(text: str) -> str:
    """A name or note as somebody wrote it. Raises ValueError for what not every database can hold."""
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode") from None
    return text
