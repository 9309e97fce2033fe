"""A large body of token-id arrays, read in slices: 33 MB at once would hold the event loop for half a second."""

import asyncio
import re
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from vectoll.domain.embedding import MAX_INPUTS, EmbeddingRequest
from vectoll.domain.errors import FieldIssue
from vectoll.http.body import as_error, first_problem, refuse_duplicates
from vectoll.http.schemas import CreateEmbeddingRequest, Item, TokenIds
from vectoll.http.validation import MAX_WALKED_BYTES, NO_ARRAY, UNREADABLE, request_of, unreadable

LARGE_BYTES = MAX_WALKED_BYTES
"""From here on slices are worth it, and only the first problem is told."""

SLICE_BYTES = 131_072
"""Some two milliseconds' work."""

_INPUT = re.compile(rb'"input"\s*:\s*(\[\s*\[)?')


class _Skipped(CreateEmbeddingRequest):
    """A request whose arrays were skipped over."""

    input: Annotated[list[Raw], Meta(min_length=1, max_length=MAX_INPUTS)]  # type: ignore[assignment]


_SKIPPED = msgspec.json.Decoder(_Skipped)
_ITEM = msgspec.json.Decoder(Item)
_IDS = msgspec.json.Decoder(TokenIds)


def has_token_arrays(body: bytes) -> bool:
    """Whether ``read_token_arrays`` is for this body, which is large."""
    found = _INPUT.search(body)
    return found is not None and found[1] is not None


async def read_token_arrays(body: bytes) -> EmbeddingRequest:
    """What ``parse_embedding_request`` returns or raises. Others have their turn between two slices."""
    try:
        wire = _SKIPPED.decode(body)
    except msgspec.ValidationError as error:
        raise first_problem(error) from None
    except UNREADABLE as error:
        raise unreadable(body, error) from None
    await asyncio.sleep(0)
    refuse_duplicates(body)
    inputs, size = [], 0
    for index, raw in enumerate(wire.input):
        if size >= SLICE_BYTES:
            size = 0
            await asyncio.sleep(0)
        item = bytes(raw)
        size += len(item)
        try:
            is_long = len(item) > SLICE_BYTES and item.startswith(b"[")
            ids = await _read_slices(item) if is_long else _ITEM.decode(item)
        except msgspec.ValidationError as error:
            raise first_problem(error, "input", index) from None
        except UNREADABLE as error:
            raise unreadable(body, error) from None
        if not isinstance(ids, list):
            raise as_error([FieldIssue(("input", index), NO_ARRAY)])
        inputs.append(ids)
    return request_of(wire, inputs)


async def _read_slices(array: bytes) -> str | int | list[int]:
    """A long array, cut at commas as if it were one of numbers; what else it may be is read whole."""
    ids: list[int] = []
    begin, end = 1, 1
    try:
        while end > 0:
            await asyncio.sleep(0)
            end = array.find(b",", begin + SLICE_BYTES)
            ids += _IDS.decode(b"[%b]" % array[begin:end])  # the last without the bracket that ends it
            begin = end + 1
    except (msgspec.ValidationError, *UNREADABLE):
        return _ITEM.decode(array)
    return ids
