"""Paid-for vectors as the bytes of the spec's JSON answer."""

import asyncio
import binascii

import msgspec
import numpy as np
import orjson

from vectoll.core.embed import EmbedResult
from vectoll.domain.embedding import EncodingFormat, Vector

OFFLOAD_FLOATS = 32_768
"""Answers with more numbers than this (0.7 ms as text) are written in a thread."""

_FLOAT32 = np.dtype("<f4")


async def write_embeddings(result: EmbedResult, encoding_format: EncodingFormat) -> bytes:
    """The answer's body. Numbers are the shortest text that reads back as the same float32."""
    vectors = result.embeddings.vectors
    if len(vectors) * result.embeddings.dims > OFFLOAD_FLOATS:
        return await asyncio.to_thread(_write, result, encoding_format)
    return _write(result, encoding_format)


def _write(result: EmbedResult, encoding_format: EncodingFormat) -> bytes:
    """The pieces of the body, joined once. One call per vector, so that a thread lets others run between them."""
    write_vector = _as_base64 if encoding_format is EncodingFormat.BASE64 else _as_numbers
    tokens = result.embeddings.usage.prompt_tokens
    pieces = []
    separator = b'{"object":"list","data":[{"object":"embedding","index":%d,"embedding":'
    for index, vector in enumerate(result.embeddings.vectors):
        pieces.append(separator % index)
        pieces.append(write_vector(vector))
        separator = b'},{"object":"embedding","index":%d,"embedding":'
    model = msgspec.json.encode(result.model.id)
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (tokens, tokens)
    pieces.append(b'}],"model":%b,%b' % (model, usage))
    return b"".join(pieces)


def _as_numbers(vector: Vector) -> bytes:
    return orjson.dumps(np.frombuffer(vector, _FLOAT32), option=orjson.OPT_SERIALIZE_NUMPY)


def _as_base64(vector: Vector) -> bytes:
    return b'"%b"' % binascii.b2a_base64(vector, newline=False)
