"""From the body of POST /embeddings to a domain request.

Two readings of one contract: a typed decode that is fast and says little, and, only when that refuses, a slow
walk that names every problem. ``tests/unit/http/test_validation.py`` holds them to the same verdict. Both stop
early: what is wrong costs less to refuse than the same bytes cost when they are right.
"""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from vectoll.domain.embedding import MAX_INPUTS, EmbeddingRequest, EncodingFormat, Inputs
from vectoll.domain.errors import FieldIssue, InvalidRequest, shorten
from vectoll.domain.ids import ModelId
from vectoll.http.body import as_error, first_problem, malformed, refuse_duplicates
from vectoll.http.schemas import MAX_INT, CreateEmbeddingRequest

MAX_ISSUES = 16
"""Problems named in one answer; the caller fixes these first."""

MAX_WALKED_BYTES = 262_144
"""Larger bodies are told their first problem only: walking one of 32 MB that is all brackets takes seconds."""

COUNTED_BYTES = 1000
"""In smaller bodies fields that are given twice are looked for by name first."""

_REQUEST = msgspec.json.Decoder(CreateEmbeddingRequest)
_FIELDS = frozenset(CreateEmbeddingRequest.__struct_fields__)
_QUOTED_FIELDS = [f'"{field}"'.encode() for field in _FIELDS]
_INPUT_FORMS = "must be a string, an array of strings, an array of token ids or an array of token-id arrays"

NO_ARRAY = "must be an array of token ids, like the first item"

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for what is no JSON, or for what the decoder does not take for it."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = "has half of a surrogate pair (a \\ud800 to \\udfff without the other half), which is no text"

Path = tuple[str | int, ...]


def parse_embedding_request(body: bytes) -> EmbeddingRequest:
    """A valid request. Raises InvalidRequest with up to MAX_ISSUES issues, none of which quotes an input."""
    try:
        wire = _REQUEST.decode(body)
    except msgspec.ValidationError as error:
        raise (first_problem(error) if len(body) > MAX_WALKED_BYTES else _refusal(body)) from None
    except UNREADABLE as error:
        raise unreadable(body, error) from None
    if _may_repeat_a_field(body):
        refuse_duplicates(body)
    inputs = _inputs(wire.input)
    if inputs is None:
        raise as_error(list(islice(_input_issues(wire.input), MAX_ISSUES)))
    return request_of(wire, inputs)


def request_of(wire: CreateEmbeddingRequest, inputs: Inputs) -> EmbeddingRequest:
    """The domain's request, of inputs that were checked."""
    return EmbeddingRequest(
        ModelId(wire.model), inputs, wire.dimensions, wire.encoding_format or EncodingFormat.FLOAT
    )


def _may_repeat_a_field(body: bytes) -> bool:
    """Whether a field may be given twice: it is quoted twice, or may be, as a name can be spelled with escapes.

    Of more than a little it takes less to read the names than to count them.
    """
    return len(body) > COUNTED_BYTES or b"\\" in body or max(map(body.count, _QUOTED_FIELDS)) > 1


def _inputs(value: str | list[Any]) -> Inputs | None:
    """Inputs whose items have been checked one by one; None when an array mixes kinds or has the id 0."""
    if isinstance(value, str):
        return [value]
    kinds = set(map(type, value))
    if len(kinds) > 1:
        return None
    if kinds == {int}:
        return [value] if min(value) > 0 else None
    return value


def _refusal(body: bytes) -> InvalidRequest:
    """Everything that is wrong, in the order of the fields."""
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE as error:
        return unreadable(body, error)
    return as_error(list(islice(_issues(document), MAX_ISSUES)))


def unreadable(body: bytes, error: Exception) -> InvalidRequest:
    """What is wrong with a body that the decoder does not read; by its fields, where another one does.

    Half a surrogate pair, and a number beyond all floats, are JSON by its grammar.
    """
    if len(body) > MAX_WALKED_BYTES:
        return malformed(body, error)
    try:
        document = json.loads(body.decode(), parse_constant=_no_constant)
        issues = list(islice(chain(_surrogate_issues(document), _issues(document)), MAX_ISSUES))
    except (ValueError, RecursionError):
        return malformed(body, error)
    return as_error(issues) if issues else malformed(body, error)


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _surrogate_issues(document: Any) -> Iterator[FieldIssue]:
    """Texts with half of a surrogate pair, which no UTF-8 can write."""
    if not isinstance(document, dict):
        return
    for name in ("input", "model", "user"):
        value = document.get(name)
        texts = value if isinstance(value, list) else [value]
        for index, text in enumerate(texts):
            if isinstance(text, str) and _SURROGATE.search(text):
                yield FieldIssue((name, index) if value is texts else (name,), _NO_TEXT)


def _issues(document: Any) -> Iterator[FieldIssue]:
    if not isinstance(document, dict):
        yield FieldIssue((), "The request body must be a JSON object")
        return
    for name in document:
        if name not in _FIELDS:
            yield FieldIssue((), f"Unknown field '{shorten(name)}'")
    for name in ("input", "model"):
        if name not in document:
            yield FieldIssue((name,), "Field is required")
    if "input" in document:
        yield from _input_issues(document["input"])
    if "model" in document and not (isinstance(document["model"], str) and document["model"]):
        yield FieldIssue(("model",), "must be a non-empty string")
    yield from _option_issues(document)


def _option_issues(document: dict[str, Any]) -> Iterator[FieldIssue]:
    dimensions = document.get("dimensions")
    if dimensions is not None and not (_is_int(dimensions) and 1 <= dimensions <= MAX_INT):
        yield FieldIssue(("dimensions",), f"must be an integer from 1 to {MAX_INT}")
    if document.get("encoding_format") not in (None, "float", "base64"):
        yield FieldIssue(("encoding_format",), "must be 'float' or 'base64'")
    if not isinstance(document.get("user"), str | None):
        yield FieldIssue(("user",), "must be a string")


def _input_issues(value: Any) -> Iterator[FieldIssue]:
    path: Path = ("input",)
    if isinstance(value, str):
        if not value:
            yield FieldIssue(path, "must not be an empty string")
    elif not isinstance(value, list):
        yield FieldIssue(path, _INPUT_FORMS)
    elif not value:
        yield FieldIssue(path, "must not be an empty array")
    elif len(value) > MAX_INPUTS:
        yield FieldIssue(path, f"must have at most {MAX_INPUTS} items, has {len(value)}")
    elif isinstance(value[0], str):
        yield from _text_issues(path, value)
    elif isinstance(value[0], list):
        yield from _token_array_issues(path, value)
    elif _is_int(value[0]):
        yield from _token_issues(path, value, lowest=1)
    else:
        yield FieldIssue((*path, 0), "must be a string, a token id or an array of token ids")


def _text_issues(path: Path, texts: list[Any]) -> Iterator[FieldIssue]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            yield FieldIssue((*path, index), "must be a string, like the first item")
        elif not text:
            yield FieldIssue((*path, index), "must not be an empty string")


def _token_array_issues(path: Path, arrays: list[Any]) -> Iterator[FieldIssue]:
    for index, ids in enumerate(arrays):
        if not isinstance(ids, list):
            yield FieldIssue((*path, index), NO_ARRAY)
        elif not ids:
            yield FieldIssue((*path, index), "must not be an empty array")
        else:
            yield from _token_issues((*path, index), ids, lowest=0)


def _token_issues(path: Path, ids: list[Any], lowest: int) -> Iterator[FieldIssue]:
    for index, token in enumerate(ids):
        if not _is_int(token):
            yield FieldIssue((*path, index), "must be an integer token id")
        elif not lowest <= token <= MAX_INT:
            yield FieldIssue((*path, index), f"must be a token id from {lowest} to {MAX_INT}")


def _is_int(value: object) -> bool:
    """JSON's true and 1.0 are no integers here."""
    return isinstance(value, int) and not isinstance(value, bool)
