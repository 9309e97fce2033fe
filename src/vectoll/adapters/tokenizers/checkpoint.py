"""A checkpoint's tokenizer, with what a server asks of it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from vectoll.adapters.checkpoints import Checkpoint
from vectoll.adapters.tokenizers.words import MAX_CHARACTERS, words_of
from vectoll.core.reading import FEW_TEXTS, slices
from vectoll.domain.catalog import Pooling
from vectoll.domain.embedding import Encoding, check_unicode, max_characters
from vectoll.domain.errors import (
    ConfigurationError,
    InferenceFailed,
    InputTooLong,
    InvalidRequest,
    TooFewTokens,
    VectollError,
)

_PROBE = "a"


class CheckpointTokenizer:
    """Implements ``vectoll.ports.model.Tokenizer``."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, end_id: int | None = None) -> None:
        """``vocab_size`` is the number of rows of the model's embedding table.

        ``end_id`` is put behind every text, for a tokenizer.json that forgets to. Truncation and padding that
        were saved into the tokenizer are switched off.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._words = words_of(tokenizer)
        self._vocab_size = vocab_size
        self._has_ids_beyond = tokenizer.get_vocab_size(with_added_tokens=True) > vocab_size
        self._end = [] if end_id is None else [end_id]
        probe = tokenizer.encode(_PROBE)
        is_special = [*probe.special_tokens_mask, *(1 for _ in self._end), 0]
        ids = [*probe.ids, *self._end]
        self._prefix = is_special.index(0)
        self._suffix = is_special[-2::-1].index(0) if 0 in is_special[:-1] else 0
        self.first_id = ids[0] if self._prefix else None
        self.last_id = ids[-1] if self._suffix else None

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``range(vocab_size)``."""
        return self._vocab_size

    def show(self, token_id: int | None) -> str:
        """``</s> (2)``, for people; empty for no token."""
        return "" if token_id is None else f"{self._tokenizer.id_to_token(token_id)} ({token_id})"

    def encode(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Sequence[Encoding]:
        """One Encoding per text; the port says the rest."""
        try:
            read = chain.from_iterable(self._read(texts, limit))
            return [Encoding(self._finish(index, ids, max_tokens)) for index, ids in enumerate(read)]
        except BaseException as error:  # noqa: BLE001 - raised again, or what it means is
            raise _explained(error, texts) from None

    def encode_in_slices(
        self, texts: Sequence[str], *, max_tokens: int | None = None, limit: int | None = None
    ) -> Iterator[Sequence[Encoding]]:
        """The same, a few texts at a time."""
        first = 0
        try:
            for read in self._read(texts, limit):
                yield [Encoding(self._finish(first + i, ids, max_tokens)) for i, ids in enumerate(read)]
                first += len(read)
        except BaseException as error:  # noqa: BLE001 - raised again, or what it means is
            raise _explained(error, texts) from None

    def _read(self, texts: Sequence[str], limit: int | None) -> Iterable[list[list[int]]]:
        if self._words is None or sum(map(len, texts)) > MAX_CHARACTERS:
            return self._ask(texts, limit)
        read = [self._words.encode(text) for text in texts]
        if None not in read:
            return [cast("list[list[int]]", read)]
        strange = [text for text, ids in zip(texts, read, strict=True) if ids is None]
        others = chain.from_iterable(self._ask(strange))
        return [[next(others) if ids is None else ids for ids in read]]

    def _ask(self, texts: Sequence[str], limit: int | None = None) -> Iterator[list[list[int]]]:
        """The library's ids. Raises InputTooLong at a text of more than ``limit`` tokens, TooFewTokens for too few."""
        count = characters = tokens = 0
        for few in slices(texts):
            read = [one.ids for one in self._encode(few)]
            for index, ids in enumerate(read, count):
                if limit is not None and len(ids) + len(self._end) > limit:
                    raise InputTooLong(index, len(ids) + len(self._end), limit)
            count += len(read)
            characters += sum(map(len, few))
            tokens += sum(map(len, read))
            if characters > max_characters(tokens):
                raise TooFewTokens(characters, tokens, max_characters(tokens))
            yield read

    def _encode(self, texts: Sequence[str]) -> Sequence[Any]:
        """Few texts are read one by one, which costs less than the library's thread pool. ``encode_batch_fast`` skips
        the offsets of tokens, even for a single text.
        """
        tokenizer = self._tokenizer
        if len(texts) < FEW_TEXTS:
            return [tokenizer.encode_batch_fast([text])[0] for text in texts]
        return tokenizer.encode_batch_fast(texts)

    def _finish(self, index: int, ids: list[int], max_tokens: int | None) -> list[int]:
        ids += self._end
        if max_tokens is not None and len(ids) > max_tokens:
            ids = ids[: max(max_tokens - self._suffix, self._prefix)] + ids[len(ids) - self._suffix :]
        if not ids:
            raise InvalidRequest.of(("input", index), "the model has no tokens for this text")
        if self._has_ids_beyond and max(ids) >= self._vocab_size:
            raise InvalidRequest.of(
                ("input", index), "contains a special token that the model has no vector for"
            )
        return ids


def load_tokenizer(checkpoint: Checkpoint, pooling: Pooling | None = None) -> CheckpointTokenizer:
    """The checkpoint's tokenizer, with its special tokens checked against ``pooling`` (else the checkpoint's own).

    Last-token pooling takes the vector from the end token and CLS pooling from the first: without them a model returns
    plausible nonsense. An end token that tokenizer_config.json asks for and tokenizer.json lacks is added; anything
    else that is missing raises ConfigurationError.
    """
    with _explaining(checkpoint.tokenizer_file) as path:
        return _load(path, checkpoint, pooling or checkpoint.pooling)


def _load(path: Path, checkpoint: Checkpoint, pooling: Pooling | None) -> CheckpointTokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    if isinstance(normalizer := tokenizer.normalizer, BertNormalizer):
        for name, value in checkpoint.bert_rules:
            setattr(normalizer, name, value)
        tokenizer.normalizer = normalizer
    loaded = CheckpointTokenizer(tokenizer, checkpoint.architecture.vocab)
    if pooling is Pooling.CLS and loaded.first_id is None:
        raise ConfigurationError(f"{path} puts no special token first, which CLS pooling reads")
    if pooling is not Pooling.LAST:
        return loaded
    named = {_id_of(tokenizer, checkpoint.end_token), _id_of(tokenizer, checkpoint.padding_token)}
    if loaded.last_id is not None and loaded.last_id in checkpoint.end_ids | named:
        return loaded
    end_id = _id_of(tokenizer, checkpoint.end_token)
    if checkpoint.adds_end_token and end_id is not None:
        return CheckpointTokenizer(tokenizer, checkpoint.architecture.vocab, end_id=end_id)
    raise ConfigurationError(f"{path} puts no end token last, which last-token pooling reads")


def load_tokenizer_file(path: Path) -> CheckpointTokenizer:
    """A tokenizer.json without its checkpoint, to count with. Raises ConfigurationError."""
    with _explaining(path):
        tokenizer = Tokenizer.from_file(str(path))
        return CheckpointTokenizer(tokenizer, tokenizer.get_vocab_size(with_added_tokens=True))


@contextmanager
def _explaining(path: Path) -> Iterator[Path]:
    """What the library cannot read, or not encode with, is a ConfigurationError."""
    try:
        yield path
    except VectollError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or _is_panic(error):  # the library raises no narrower class
            raise ConfigurationError(f"cannot read the tokenizer {path}: {error}") from None
        raise


def _explained(error: BaseException, texts: Sequence[str]) -> BaseException:
    """What the library's error over these texts means; any other error as it is."""
    if isinstance(error, TypeError):  # as for a str without a UTF-8 form
        try:
            check_unicode(texts)
        except InvalidRequest as refusal:
            return refusal
    return InferenceFailed() if _is_panic(error) else error


def _is_panic(error: BaseException) -> bool:
    """Whether the library's Rust code gave up: no Exception, and its class cannot be imported."""
    return type(error).__name__ == "PanicException"


def _id_of(tokenizer: Tokenizer, token: str | None) -> int | None:
    return None if token is None else tokenizer.token_to_id(token)
