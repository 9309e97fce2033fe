"""Paid-for vectors as the bytes of the spec's JSON answer."""

import binascii
from collections.abc import Iterator

import msgspec
import numpy as np
import orjson

from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import EncodingFormat, Vector

STREAMED_BYTES = 131_072
"""Answers with more bytes of vectors than this (0.4 MB as text, written in 0.7 ms) are streamed."""

PIECE_BYTES = 131_072
"""What a streamed answer is written in; a piece exceeds it by less than one vector."""

_FLOAT32 = np.dtype("<f4")


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
    """One call per vector, so that a thread that writes many lets others run between them."""
    write_vector = _as_base64 if encoding_format is EncodingFormat.BASE64 else _as_numbers
    tokens = result.embeddings.usage.prompt_tokens
    separator = b'{"object":"list","data":[{"object":"embedding","index":%d,"embedding":'
    for index, vector in enumerate(result.embeddings.vectors):
        yield separator % index
        yield write_vector(vector)
        separator = b'},{"object":"embedding","index":%d,"embedding":'
    model = msgspec.json.encode(result.model.id)
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (tokens, tokens)
    yield b'}],"model":%b,%b' % (model, usage)


def _as_numbers(vector: Vector) -> bytes:
    return orjson.dumps(np.frombuffer(vector, _FLOAT32), option=orjson.OPT_SERIALIZE_NUMPY)


def _as_base64(vector: Vector) -> bytes:
    return b'"%b"' % binascii.b2a_base64(vector, newline=False)
