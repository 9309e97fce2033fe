"""The bytes between a gateway and a replica: token ids there, vectors back. Little-endian, no padding, no pickle.

::

    question   b"VTQ1"  u32 size of meta   meta: JSON {caller, headers, account, marks}
               u32 n    i32 lengths[n]     i32 ids[sum of lengths]
    answer     b"VTA1"  u32 outcome        u32 n   u32 dims   f32 vectors[n * dims]

An answer that is not OK has no vectors; where it is FULL, ``n`` is the seconds after which to come back; where it is
DIFFERENT, the names of what differs follow, with commas between them.
"""

import re
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import chain
from typing import cast

import msgspec
from msgspec import Struct

from vectoll.core.batching.vectors import all_finite
from vectoll.domain.embedding import Vector
from vectoll.domain.identity import Caller

MEDIA_TYPE = "application/x-vectoll-frame"
MAX_META_BYTES = 16_384

_QUESTION, _ANSWER = b"VTQ1", b"VTA1"
_META_AT = struct.Struct("<4sI")
_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<4sIII")
_IS_SWAPPED = sys.byteorder != "little"

assert array("i").itemsize == 4


class Outcome(IntEnum):
    """How a replica got on."""

    OK = 0
    FULL = 1
    """Its queue has no room, or the wait would be too long."""
    FAILED = 2
    """The engine failed, or gave what is not finite."""
    LEAVING = 3
    """It is shutting down: ask another."""
    REFUSED = 4
    """The question is malformed, or not for this replica's model."""
    DIFFERENT = 5
    """The gateway's settings are not this replica's: its vectors would be others."""


class BadFrame(ValueError):
    """Bytes that are no frame, or not the one that was expected. Says what is wrong, never what was in it."""


class _Meta(Struct, frozen=True):
    caller: str
    headers: dict[str, str] = {}
    account: str = ""
    """Whose key the caller is; not said by gateways of before, each of whose callers is one of its own."""
    marks: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Question:
    """Sequences of token ids, who they are computed for, and the trace that they belong to."""

    sequences: Sequence[Sequence[int]]
    caller: Caller
    headers: Mapping[str, str] = field(default_factory=dict)
    """``traceparent`` and its like; empty where nothing is traced."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """What the gateway takes the model to be (``marks``)."""


def encode_question(question: Question) -> bytes:
    """Raises OverflowError for a token id that does not fit 32 bits."""
    meta = msgspec.json.encode(
        _Meta(question.caller.key, dict(question.headers), question.caller.account, dict(question.marks))
    )
    lengths = array("i", map(len, question.sequences))
    ids = array("i", chain.from_iterable(question.sequences))
    return b"".join(
        (
            _META_AT.pack(_QUESTION, len(meta)),
            meta,
            _COUNT.pack(len(lengths)),
            _bytes_of(lengths),
            _bytes_of(ids),
        )
    )


def decode_question(frame: bytes) -> Question:
    """Sequences are views into ``frame``. Raises BadFrame unless there is at least one, and none is empty."""
    if len(frame) < _META_AT.size:
        raise BadFrame("too short for a question")
    magic, meta_size = _META_AT.unpack_from(frame)
    if magic != _QUESTION or meta_size > MAX_META_BYTES:
        raise BadFrame("not a question")
    at = _META_AT.size + meta_size
    try:
        meta = msgspec.json.decode(frame[_META_AT.size : at], type=_Meta)
        (count,) = _COUNT.unpack_from(frame, at)
    except (msgspec.DecodeError, struct.error):
        raise BadFrame("a question without a readable head") from None
    words = _words(frame, at + _COUNT.size)
    lengths = words[:count]
    if not count or len(lengths) < count or min(lengths) < 1 or count + sum(lengths) != len(words):
        raise BadFrame("lengths that do not add up")
    sequences, start = [], count
    for length in lengths:
        sequences.append(words[start : start + length])
        start += length
    caller = Caller(meta.account or meta.caller, meta.caller)
    return Question(cast("Sequence[Sequence[int]]", sequences), caller, meta.headers, meta.marks)


def encode_answer(vectors: Sequence[Vector], dims: int) -> bytes:
    """The OK answer."""
    return b"".join((_HEAD.pack(_ANSWER, Outcome.OK, len(vectors), dims), *vectors))


def encode_refusal(outcome: Outcome, retry_after_s: int = 0) -> bytes:
    """An answer without vectors."""
    return _HEAD.pack(_ANSWER, outcome, retry_after_s, 0)


def encode_difference(names: Sequence[str]) -> bytes:
    """The DIFFERENT answer."""
    return encode_refusal(Outcome.DIFFERENT) + ",".join(names).encode()


def decode_difference(frame: bytes) -> list[str]:
    """What a DIFFERENT answer names. Raises BadFrame for what cannot be shown to a caller."""
    names = frame[_HEAD.size :]
    if not re.fullmatch(rb"[a-z_]{1,20}(,[a-z_]{1,20}){0,20}", names):
        raise BadFrame("a difference without names")
    return names.decode().split(",")


def outcome_of(frame: bytes) -> tuple[Outcome, int]:
    """How the replica got on, and the ``n`` beside it. Raises BadFrame."""
    if len(frame) < _HEAD.size:
        raise BadFrame("too short for an answer")
    magic, outcome, count, _ = _HEAD.unpack_from(frame)
    if magic != _ANSWER or outcome not in Outcome._value2member_map_:
        raise BadFrame("not an answer")
    return Outcome(outcome), count


def decode_vectors(frame: bytes, count: int, dims: int) -> list[Vector]:
    """The vectors of an OK answer, as views into it. Raises BadFrame unless they are ``count``, of ``dims`` finite
    numbers each.
    """
    _, _, found, found_dims = _HEAD.unpack_from(frame)
    size = 4 * dims
    if (found, found_dims) != (count, dims) or len(frame) != _HEAD.size + count * size:
        raise BadFrame(f"{found} vectors of {found_dims} dims in {len(frame)} bytes, not {count} of {dims}")
    view = memoryview(frame)
    vectors = [cast(Vector, view[at : at + size].cast("f")) for at in range(_HEAD.size, len(frame), size)]
    if not all_finite(vectors):
        raise BadFrame("a vector that is not finite")
    return vectors


def _bytes_of(numbers: "array[int]") -> bytes:
    if _IS_SWAPPED:
        numbers.byteswap()
    return numbers.tobytes()


def _words(frame: bytes, at: int) -> memoryview:
    """The rest of a frame as 32-bit numbers."""
    rest = memoryview(frame)[at:]
    if len(rest) % 4:
        raise BadFrame("a question of a broken length")
    if _IS_SWAPPED:
        swapped = array("i", rest.tobytes())
        swapped.byteswap()
        return memoryview(swapped)
    return rest.cast("i")
