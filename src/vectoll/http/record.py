"""What one request leaves behind: in the log, the metrics and the answer's headers."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address

from starlette.types import Scope

from vectoll.core.admission import ANY_MODEL, Permit
from vectoll.domain.identity import Caller, Principal
from vectoll.domain.ids import RequestId, new_id
from vectoll.domain.money import Amount

OPENAI_BASE = "/v1"
"""Speaks OpenAI's error object."""
SPEC_BASE = "/api/v1"
"""Speaks the spec's errors."""
BASES = (SPEC_BASE, OPENAI_BASE)
_BELOW_BASES = (SPEC_BASE + "/", OPENAI_BASE + "/")

_KEY = "vectoll.record"
_UNKNOWN_CLIENT = "address:unknown"
"""Whoever comes from no address that is known shares one place with the others."""
_LISTS = frozenset({"accept", "accept-encoding"})
_SINGLE = frozenset({
    "api-key", "authorization", "content-encoding", "content-length", "content-type", "idempotency-key",
    "payment-signature", "sign-in-with-x", "x-402-payment", "x-payment", "x-sign-in-with-x",
})  # fmt: skip
"""Who is calling, what is sent, what is paid: two of them, and it would be up to chance which one counts."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """Written by the routes as they learn it, read by what wraps every answer."""

    request_id: RequestId
    headers: Mapping[str, str]
    """The request's headers by lower-case name: read many times, so decoded once.

    Lines of a list are one, as RFC 9110 §5.3 has it; of any other name the first counts.
    """
    ambiguous: Sequence[str] = ()
    """Names that were given more than once, where only one can be meant."""
    started: float = field(default_factory=time.perf_counter)
    caller: Caller | None = None
    """Who is counted; None as long as nobody has asked who is calling."""
    principal: Principal | None = None
    permit: Permit | None = None
    model: str = ANY_MODEL
    tokens: int | None = None
    error_code: str | None = None
    funds: Amount | None = None
    """What the wallet that signed in can spend, held or not."""
    settlement: str | None = None
    """The PAYMENT-RESPONSE header, where this request paid."""


def begin_record(scope: Scope) -> RequestRecord:
    """Open the record of a request. A sane ``x-request-id`` is taken over, else an id is made."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])}
    offered = headers.get("x-request-id", "")
    request_id = offered if _REQUEST_ID.fullmatch(offered) else new_id("req")
    record = RequestRecord(RequestId(request_id), headers)
    if len(headers) < len(scope["headers"]):
        _read_repeated(record, headers, scope["headers"])
    scope[_KEY] = record
    return record


def _read_repeated(
    record: RequestRecord, headers: dict[str, str], lines: Sequence[tuple[bytes, bytes]]
) -> None:
    counts = Counter(name.decode("latin-1") for name, _ in lines)
    for name in _LISTS & counts.keys():
        headers[name] = ", ".join(value.decode("latin-1") for line, value in lines if line == name.encode())
    record.ambiguous = sorted(name for name in _SINGLE & counts.keys() if counts[name] > 1)


def record_of(scope: Scope) -> RequestRecord:
    """The record that ``begin_record`` opened."""
    record: RequestRecord = scope[_KEY]
    return record


def speaks_openai(scope: Scope) -> bool:
    """Whether errors take OpenAI's shape: everywhere but under the spec's base.

    Who misses both bases is most often a client of OpenAI's whose base URL lacks its /v1; they show no other shape.
    """
    path: str = scope["path"]
    return path != SPEC_BASE and not path.startswith(SPEC_BASE + "/")


def is_api(scope: Scope) -> bool:
    """Whether the request is for the metered API, as opposed to /health and its like."""
    path: str = scope["path"]
    return path.startswith(_BELOW_BASES) or path in BASES


def stranger(scope: Scope) -> str:
    """How a caller without credentials is counted: by address, as the server (or its trusted proxy) saw it.

    Of IPv6 the network of 64 bits counts, the least that anybody is given: one network's addresses are one client.
    """
    client = scope.get("client")
    if not client:
        return _UNKNOWN_CLIENT
    host: str = client[0]
    return f"address:{host}" if ":" not in host else _network_of(host)


@lru_cache(maxsize=4096)
def _network_of(host: str) -> str:
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return f"address:{host}"
    if address.ipv4_mapped is not None:
        return f"address:{address.ipv4_mapped}"
    return f"address:{IPv6Address(int(address) >> 64 << 64)}/64"


def route_template(scope: Scope) -> str:
    """The path template that matched, "" for none: few values, whatever strangers ask for."""
    template: str = getattr(scope.get("route"), "path_format", "")
    return template
