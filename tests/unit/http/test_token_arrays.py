"""Large bodies of token ids are read in slices, to the same end as at once."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.turns import turns_during

from vectoll.domain.embedding import EmbeddingRequest
from vectoll.domain.errors import InvalidRequest
from vectoll.http import token_arrays
from vectoll.http.token_arrays import LARGE_BYTES, SLICE_BYTES, has_token_arrays, read_token_arrays
from vectoll.http.validation import parse_embedding_request

FILLER = [7] * LARGE_BYTES


def body_of(inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": inputs, **fields}).encode()


async def both(body: bytes) -> Iterator[EmbeddingRequest | str]:
    """What either reading makes of a body, or says of it."""
    try:
        sliced: EmbeddingRequest | str = await read_token_arrays(body)
    except InvalidRequest as error:
        sliced = str(error)
    try:
        whole: EmbeddingRequest | str = parse_embedding_request(body)
    except InvalidRequest as error:
        whole = str(error)
    return iter((sliced, whole))


@pytest.mark.parametrize(
    ("body", "is_for_slices"),
    [
        (body_of([FILLER]), True),
        (body_of([FILLER]).replace(b'"input": [', b'"input" :\n[ \t'), True),
        (body_of("x" * LARGE_BYTES), False),
        (body_of(["x" * LARGE_BYTES, "[["]), False),
        (b"[" * 2 * LARGE_BYTES, False),
    ],
)
def test_slices_are_for_arrays_of_token_ids(body: bytes, is_for_slices: bool) -> None:
    assert has_token_arrays(body) == is_for_slices


ITEMS = {
    "right": [1, 2],
    "empty": [],
    "negative": [1, -1],
    "too large": [2**31],
    "no whole number": [1.5],
    "true": [True],
    "null": None,
    "a string inside": [1, "a,b"],
    "an array inside": [1, [2]],
    "text": "text",
    "no text": "",
    "a number": 3,
    "an object": {"a": 1},
    "long": FILLER,
    "long text": "a," * SLICE_BYTES,
    "long text of digits": "1," * SLICE_BYTES + "1",
    "long and negative": [*FILLER, -1],
    "long with a string inside": [*FILLER, "a,b", 7],
    "long with an array inside": [*FILLER, [1, 2]],
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
async def test_what_is_wrong_with_an_item_is_said_in_the_same_words(item: Any) -> None:
    sliced, whole = await both(body_of([FILLER, [3], item, [4]]))
    assert sliced == whole


FIELDS = {
    "none": b"",
    "options": b',"dimensions":3,"encoding_format":"base64","user":"u"',
    "wrong": b',"dimensions":0',
    "unknown": b',"more":1',
    "twice": b',"model":"m"',
    "no JSON": b",",
    "not UTF-8": b',"user":"\xff"',
}


@pytest.mark.parametrize("more", FIELDS.values(), ids=FIELDS)
async def test_other_fields_mean_what_they_do(more: bytes) -> None:
    sliced, whole = await both(body_of([FILLER, [0]])[:-1] + more + b"}")
    assert sliced == whole


@pytest.mark.parametrize("inputs", [[[1]] * 2049, []])
async def test_there_are_as_many_inputs_as_elsewhere(inputs: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^input: "):
        await read_token_arrays(body_of(inputs))


@given(
    arrays=st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=40), min_size=1, max_size=20),
    slice_bytes=st.integers(1, 60),
    indent=st.sampled_from([None, 1]),
)
async def test_wherever_it_is_cut_the_ids_are_the_same(
    arrays: list[list[int]], slice_bytes: int, indent: int | None
) -> None:
    body = json.dumps({"model": "m", "input": arrays}, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_arrays, "SLICE_BYTES", slice_bytes)
        assert (await read_token_arrays(body)).inputs == arrays


@pytest.mark.parametrize("inputs", [[FILLER] * 4, [FILLER[:1000]] * 1000], ids=["long", "many"])
async def test_others_have_their_turn_between_slices(inputs: Any) -> None:
    body = body_of(inputs)
    assert await turns_during(read_token_arrays(body)) >= len(body) // SLICE_BYTES - 1
