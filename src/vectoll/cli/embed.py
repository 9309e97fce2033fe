"""vectoll embed"""

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import click

from vectoll.cli import suggest
from vectoll.cli.line_reader import LineReader
from vectoll.cli.options import with_settings
from vectoll.cli.vector_files import VectorWriter, open_writer
from vectoll.domain.embedding import Vector
from vectoll.domain.errors import FieldIssue, InputTooLong, InvalidRequest
from vectoll.settings import Settings

CHUNK_TEXTS = 512
CHUNK_CHARACTERS = 100_000
CHUNKS_IN_FLIGHT = 3
"""So that one is tokenised, or travels, while another is computed."""


class Embedder(Protocol):
    """What turns a chunk of texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """One vector per text, in order. Raises VectollError."""
        ...


@click.command()
@click.argument("texts", nargs=-1)
@click.option(
    "--file", "source", type=click.File("rb"), help="Embed each line of a file; - is standard input."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Write here: an array if it ends in .npy, else JSON lines.",
)
@click.option("--model", default="all-MiniLM-L6-v2", show_default=True, shell_complete=suggest.models)
@click.option("--dimensions", type=click.IntRange(1), help="Vectors of this size, where the model has it.")
@click.option("--url", help="Ask this server instead of computing here, e.g. http://127.0.0.1:8787.")
@click.option("--api-key", envvar="VECTOLL_API_KEY", show_envvar=True, help="The API key for --url.")
@with_settings
def embed(
    settings: Settings,
    texts: tuple[str, ...],
    source: BinaryIO | None,
    output: Path | None,
    model: str,
    dimensions: int | None,
    url: str | None,
    api_key: str | None,
) -> None:
    """Embed texts, or the lines of a file.

    Writes JSON lines or a numpy array. Works without a server: the model runs in this process, and nothing is
    charged.
    """
    if texts and source is not None:
        raise click.UsageError("Give texts or --file, not both.")
    if not texts and source is None:
        raise click.UsageError("Give texts, or --file.")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # another than the default, for which asyncio would put its own, which waits for the next line
        signal.signal(signal.SIGINT, partial(signal.default_int_handler))
    lines = LineReader.reading(source) if source else None
    with open_writer(output) as writer:
        embedder = _remote(url, api_key, model, dimensions) if url else _local(settings, model, dimensions)
        asyncio.run(_embed_all(embedder, texts if lines is None else lines, writer, lines))


async def _embed_all(
    opening: AbstractAsyncContextManager[Embedder],
    texts: Iterable[str],
    writer: VectorWriter,
    progress: LineReader | None,
) -> None:
    done = 0
    try:
        async with opening as embedder:
            async for vectors in _in_order(embedder, _chunks(texts)):
                for vector in vectors:
                    writer.write(vector)
                done += len(vectors)
                if progress:
                    progress.show(done)
    finally:
        if progress:
            progress.finish()


async def _in_order(
    embedder: Embedder, chunks: Iterator[tuple[int, list[str]]]
) -> AsyncIterator[Sequence[Vector]]:
    """Each chunk's vectors, a few chunks ahead of the reader."""
    running: deque[asyncio.Task[Sequence[Vector]]] = deque()
    try:
        for first, texts in chunks:
            running.append(asyncio.create_task(_embed_chunk(embedder, first, texts)))
            if len(running) == CHUNKS_IN_FLIGHT:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()


async def _embed_chunk(embedder: Embedder, first: int, texts: list[str]) -> Sequence[Vector]:
    """Raises InvalidRequest with the position in the whole input, from 1, where one text is to blame."""
    for index, text in enumerate(texts):
        if not text:
            raise InvalidRequest(f"text {first + index} is empty; every line needs one")
    try:
        return await embedder.embed(texts)
    except InputTooLong as error:
        raise InvalidRequest(
            f"text {first + error.index}: This model's maximum context length is {error.limit} tokens, "
            f"this text has {error.tokens}. Shorten or split it."
        ) from None
    except InvalidRequest as error:
        match error.issues:
            case [FieldIssue(path=(_, int(index)), message=why)]:
                raise InvalidRequest(f"text {first + index}: {why}") from None
        raise


def _chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Runs of texts, each with the position of its first from 1, bounded in number and in characters."""
    chunk: list[str] = []
    characters = 0
    first = 1
    for text in texts:
        if chunk and (len(chunk) == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS):
            yield first, chunk
            first, chunk, characters = first + len(chunk), [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield first, chunk


def _local(settings: Settings, model: str, dimensions: int | None) -> AbstractAsyncContextManager[Embedder]:
    from vectoll.cli.embed_local import open_local

    return open_local(settings, model, dimensions)


def _remote(
    url: str, api_key: str | None, model: str, dimensions: int | None
) -> AbstractAsyncContextManager[Embedder]:
    from vectoll.cli.embed_remote import open_remote

    return open_remote(url, api_key, model, dimensions)
