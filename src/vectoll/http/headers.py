"""Headers that every answer carries."""

from starlette.responses import Response
from starlette.types import Scope

from vectoll.http.record import is_api

RawHeaders = list[tuple[bytes, bytes]]

_DATA: RawHeaders = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
_SECRETS: RawHeaders = [*_DATA, (b"cache-control", b"no-store")]


def add_security_headers(scope: Scope, response: Response) -> None:
    """Answers are data: never sniffed, never framed; those of the API are stored by nobody on the way.

    A page brings a policy of its own.
    """
    headers = response.raw_headers
    if is_api(scope):
        headers.extend(_SECRETS)
        return
    present = {name for name, _ in headers}
    headers.extend(header for header in _DATA if header[0] not in present)
