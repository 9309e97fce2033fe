"""The two sign-in texts, read and written: EIP-4361 and its Solana sibling.

Strict: one order of lines, one spelling each, no line that the format does not name. A hand-written reader of
fifty lines takes microseconds; the grammar in ABNF, which the EIP prints, takes milliseconds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from vectoll.domain.siwx import SignInMessage, SignInRefused, SignInRule, chain_of
from vectoll.domain.wallets import Family, parse_wallet

_OPENINGS = {
    " wants you to sign in with your Ethereum account:": Family.EVM,
    " wants you to sign in with your Solana account:": Family.SOLANA,
}
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]+")
_REQUIRED = ("URI", "Version", "Chain ID", "Nonce", "Issued At")
_OPTIONAL = ("Expiration Time", "Not Before", "Request ID")


def parse_message(text: str) -> SignInMessage:
    """Take a signed text apart. Raises SignInRefused(MESSAGE)."""
    try:
        return _parse(text.split("\n"))
    except ValueError:
        raise SignInRefused(SignInRule.MESSAGE) from None


def _parse(lines: list[str]) -> SignInMessage:
    domain, family = _opening(lines[0])
    if len(lines) < 8:
        raise ValueError("too few lines")
    wallet = parse_wallet(lines[1])
    if wallet.family is not family or lines[2]:
        raise ValueError("address")
    values = _fields(lines[_first_field(lines) :])
    chain = chain_of(values["Chain ID"], family)
    if chain is None:
        raise ValueError("chain")
    return SignInMessage(
        wallet=wallet,
        domain=domain,
        version=values["Version"],
        chain=chain,
        nonce=values["Nonce"],
        issued_at=parse_time(values["Issued At"]),
        expiration_time=_optional_time(values, "Expiration Time"),
        not_before=_optional_time(values, "Not Before"),
    )


def _opening(line: str) -> tuple[str, Family]:
    for ending, family in _OPENINGS.items():
        domain = line.removesuffix(ending)
        if domain != line and domain and " " not in domain and _PRINTABLE.fullmatch(domain):
            return domain, family
    raise ValueError("opening line")


def _first_field(lines: list[str]) -> int:
    """The index of the ``URI:`` line: after no statement (one blank line or two) or one statement line."""
    if lines[3].startswith("URI: "):
        return 3
    if not lines[3]:
        return 4
    if lines[4] or not _PRINTABLE.fullmatch(lines[3]):
        raise ValueError("statement")
    return 5


def _fields(lines: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    rest = iter(lines)
    line = next(rest, None)
    for name in _REQUIRED + _OPTIONAL:
        label = f"{name}: "
        if line is None or not line.startswith(label):
            if name in _REQUIRED:
                raise ValueError(name)
            continue
        value = line.removeprefix(label)
        if not _PRINTABLE.fullmatch(value) and not (name == "Request ID" and not value):
            raise ValueError(name)
        values[name] = value
        line = next(rest, None)
    _resources(line, rest)
    return values


def _resources(line: str | None, rest: Iterator[str]) -> None:
    """What may follow the fields: nothing, or ``Resources:`` and one ``- URI`` a line."""
    if line is None:
        return
    if line != "Resources:":
        raise ValueError("unknown line")
    for resource in rest:
        if not resource.startswith("- ") or not _PRINTABLE.fullmatch(resource):
            raise ValueError("resource")


def parse_time(text: str) -> datetime:
    """RFC 3339 with a zone; digits past microseconds are dropped. Raises ValueError."""
    if not _TIME.fullmatch(text):
        raise ValueError("not an RFC 3339 time")
    return datetime.fromisoformat(text)


def _optional_time(values: dict[str, str], name: str) -> datetime | None:
    return parse_time(values[name]) if name in values else None


@dataclass(frozen=True, slots=True)
class MessageFields:
    """The payload of the x402 SDKs, which leave the text to be rebuilt. Fields as the client spelled them."""

    domain: str
    address: str
    uri: str
    version: str
    chain: str
    """A CAIP-2 id."""
    nonce: str
    issued_at: str
    statement: str | None = None
    expiration_time: str | None = None
    not_before: str | None = None
    request_id: str | None = None
    resources: tuple[str, ...] = field(default=())


def render(fields: MessageFields, family: Family) -> str:
    """The text that the SDKs sign for these fields: EIP-4361 as ``siwe`` prints it, and its Solana sibling."""
    people = "Ethereum" if family is Family.EVM else "Solana"
    lines = [f"{fields.domain} wants you to sign in with your {people} account:", fields.address, ""]
    if fields.statement:
        lines += [fields.statement, ""]
    elif family is Family.EVM:
        lines += [""]
    lines += [
        f"URI: {fields.uri}",
        f"Version: {fields.version}",
        f"Chain ID: {fields.chain.partition(':')[2]}",
        f"Nonce: {fields.nonce}",
        f"Issued At: {fields.issued_at}",
    ]
    optional = (fields.expiration_time, fields.not_before, fields.request_id)
    lines += [f"{name}: {value}" for name, value in zip(_OPTIONAL, optional, strict=True) if value]
    if fields.resources:
        lines += ["Resources:", *(f"- {resource}" for resource in fields.resources)]
    return "\n".join(lines)
