"""Paid-for vectors as the bytes of the spec's JSON answer."""

import binascii
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import orjson

from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import EncodingFormat, Vector
from vectoll.kernels.numbers import vector_writer

STREAMED_BYTES = 131_072
"""Answers with more bytes of vectors than this (0.4 MB as text) are streamed."""

PIECE_BYTES = 131_072
"""What a streamed answer is written in; a piece exceeds it by less than ``NUMBERS_AT_ONCE`` or one vector."""

NUMBERS_AT_ONCE = 4_096
"""Vectors of about so many components are written by one call, so that a thread that writes many lets others run."""


def bytes_of_vectors(result: EmbedResult) -> int:
    """Size of the vectors in memory, which is less than that of the answer."""
    return 4 * len(result.embeddings.vectors) * result.embeddings.dims


def write_embeddings(result: EmbedResult, encoding_format: EncodingFormat) -> bytes:
    """The answer's body. Numbers are the shortest text that reads back as the same float32."""
    return b"".join(_write(result, encoding_format))


def stream_embeddings(result: EmbedResult, encoding_format: EncodingFormat) -> Iterator[bytes]:
    """The same bytes in pieces, each made when it is asked for."""
    piece: list[bytes] = []
    size = 0
    for part in _write(result, encoding_format):
        piece.append(part)
        size += len(part)
        if size >= PIECE_BYTES:
            yield b"".join(piece)
            piece.clear()
            size = 0
    if piece:
        yield b"".join(piece)


def _write(result: EmbedResult, encoding_format: EncodingFormat) -> Iterator[bytes]:
    write = _with_base64 if encoding_format is EncodingFormat.BASE64 else vector_writer() or _with_numbers
    vectors, dims = result.embeddings.vectors, result.embeddings.dims
    at_once = max(1, NUMBERS_AT_ONCE // dims)
    yield b'{"object":"list","data":['
    for index in range(0, len(vectors), at_once):
        if index:
            yield b","
        yield write(vectors[index : index + at_once], dims, index)
    tokens, model = result.embeddings.usage.prompt_tokens, msgspec.json.encode(result.model.id)
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (tokens, tokens)
    yield b'],"model":%b,%b' % (model, usage)


def _with_numbers(vectors: Sequence[Vector], _dims: int, index: int) -> bytes:
    """What ``vector_writer`` does, where the kernels cannot run."""
    return _objects(index, [_as_numbers(vector) for vector in vectors])


def _with_base64(vectors: Sequence[Vector], _dims: int, index: int) -> bytes:
    return _objects(index, [b'"%b"' % binascii.b2a_base64(vector, newline=False) for vector in vectors])


def _objects(index: int, embeddings: Sequence[bytes]) -> bytes:
    return b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % numbered
        for numbered in enumerate(embeddings, index)
    )


def _as_numbers(vector: Vector) -> bytes:
    return orjson.dumps(np.frombuffer(vector, "<f4"), option=orjson.OPT_SERIALIZE_NUMPY)
