"""The request's body, from bytes on the wire to well-formed JSON."""

import codecs
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from vectoll.domain.errors import (
    ContentEncoded,
    FieldIssue,
    InvalidRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
    format_path,
    shorten,
)
from vectoll.http.record import record_of

T = TypeVar("T")

_MSGSPEC_PATH_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(\w+)`")

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TRUNCATED = "input data was truncated"

MAX_MEMBERS = 64
"""Members of a JSON object, repetitions included: more than any request here has, and cheap to look at."""


class _Occurrence:
    """A member's name, hashed by identity, so that a dict keeps a name that occurs twice."""

    __slots__ = ()


async def read_json_body(request: Request, limit_bytes: int, advice: str = "") -> bytes:
    """The body of a request that calls itself JSON. ``advice`` is for who sends too much.

    Raises UnsupportedMediaType for any other label, PayloadTooLarge as soon as ``limit_bytes`` is known to be
    exceeded, what ``Permit.hold_bytes`` raises, ClientDisconnect.
    """
    headers, permit = record_of(request.scope).headers, record_of(request.scope).permit
    _require_json(headers)
    if _content_length(headers) > limit_bytes:
        raise PayloadTooLarge(limit_bytes, advice)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise PayloadTooLarge(limit_bytes, advice)
        if permit is not None:
            permit.hold_bytes(size)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _require_json(headers: Mapping[str, str]) -> None:
    content_type = headers.get("content-type", "")
    if content_type != "application/json" and not _is_json(content_type):
        raise UnsupportedMediaType
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise ContentEncoded


def _is_json(content_type: str) -> bool:
    """Whether this is ``application/json``, with any parameters, in UTF-8."""
    media_type, *parameters = content_type.lower().split(";")
    charsets = (p.partition("=")[2].strip(' "') for p in parameters if p.strip().startswith("charset="))
    return media_type.strip() == "application/json" and all(c in ("utf-8", "utf8") for c in charsets)


def may_exceed(headers: Mapping[str, str], size: int) -> bool:
    """Whether the body may be larger than ``size``, as far as its head says."""
    return _content_length(headers) > size or "transfer-encoding" in headers


def _content_length(headers: Mapping[str, str]) -> int:
    """What the client announced, 0 when it did not (or what the server has let through is not a number)."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def member_names(body: bytes) -> list[str]:
    """The names in a JSON object, each as often as it occurs. Raises InvalidRequest for anything else.

    Member values are skipped over, not checked.
    """
    names: list[str] = []

    def note(_: type, name: str) -> _Occurrence:
        if len(names) == MAX_MEMBERS:
            raise InvalidRequest.at((), f"The request body has more than {MAX_MEMBERS} fields")
        names.append(name)
        return _Occurrence()

    try:
        msgspec.json.decode(body, type=dict[_Occurrence, msgspec.Raw], dec_hook=note)
    except msgspec.ValidationError:
        raise InvalidRequest.at((), "The request body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(body, error) from None
    return names


def refuse_duplicates(body: bytes) -> None:
    """Raises InvalidRequest for a JSON object that gives a name twice: no reading of it is the right one."""
    names = member_names(body)
    if len(set(names)) == len(names):
        return
    repeated = (name for name in dict.fromkeys(names) if names.count(name) > 1)
    raise as_error(
        [FieldIssue((), f"The field '{shorten(name)}' is given more than once") for name in repeated]
    )


def decode_json(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """A small JSON object as its type. Raises InvalidRequest that names the first problem."""
    refuse_duplicates(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise first_problem(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(body, error) from None


def malformed(body: bytes, error: Exception) -> InvalidRequest:
    """What is wrong with a body that is not JSON, in words that quote nothing of it."""
    if isinstance(error, RecursionError):
        return InvalidRequest.at((), "The request body is nested too deeply")
    return InvalidRequest.at((), f"The request body is not valid JSON: {_why_not_json(body, error)}")


def _why_not_json(body: bytes, error: Exception) -> str:
    if not body.strip():
        return "it is empty"
    if body.startswith(_BYTE_ORDER_MARKS):
        return "it begins with a byte order mark; send UTF-8 without one"
    try:  # each decoder says so with an exception of its own, and none in the same words
        body.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8"
    reason = str(error).removeprefix("JSON is malformed: ").partition(" - at `$")[0].lower()
    if reason == _TRUNCATED:  # the decoder says so, too, of a complete text whose last string ends like this
        reason += ", or ends with half of a surrogate pair"
    return shorten(reason)


def first_problem(error: msgspec.ValidationError, *within: str | int) -> InvalidRequest:
    """``Expected `int`, got `str` - at `$.a[0]``` → an issue at ``("a", 0)``, or so below ``within``."""
    what, _, where = str(error).partition(" - at `$")
    path = within + tuple(
        name or (int(index) if index.isdigit() else index)
        for name, index in _MSGSPEC_PATH_STEP.findall(where)
    )
    if missing := _MISSING.fullmatch(what):
        return as_error([FieldIssue((*path, missing[1]), "Field is required")])
    message = shorten(what.replace("`", "'"), 200)
    return as_error([FieldIssue(path, message)])


def as_error(issues: Sequence[FieldIssue]) -> InvalidRequest:
    """One error for all the issues; its message is all there is to read of them where there are no ``details``."""
    named = (
        f"{format_path(issue.path)}: {issue.message}" if issue.path else issue.message for issue in issues
    )
    return InvalidRequest("; ".join(named), issues)
