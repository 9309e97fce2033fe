"""Exact token counts for upstreams that read an OpenAI vocabulary."""

from collections.abc import Iterator, Sequence
from itertools import chain

import tokenizers
from tokenizers import pre_tokenizers
from tokenizers.models import BPE

from vectoll.adapters.token_ids.vocabulary import SINGLE_BYTES, VOCABULARIES, Vocabulary
from vectoll.core.reading import slices
from vectoll.domain.embedding import Encoding, check_unicode


class BytePairTokenizer:
    """Implements ``ports.model.Tokenizer``: the provider's own tokens, nothing added, special words as plain text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocab_size = len(vocabulary.tokens)
        self._tokenizer = _build(vocabulary)

    @property
    def vocab_size(self) -> int:
        """Token ids are in ``range(vocab_size)``."""
        return self._vocab_size

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int | None = None,
        limit: int | None = None,  # noqa: ARG002 - all are read
    ) -> Sequence[Encoding]:
        """See ``Tokenizer.encode``."""
        return list(chain.from_iterable(self.encode_in_slices(texts, max_tokens=max_tokens)))

    def encode_in_slices(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int | None = None,
        limit: int | None = None,  # noqa: ARG002 - all are read
    ) -> Iterator[Sequence[Encoding]]:
        """See ``Tokenizer.encode_in_slices``."""
        check_unicode(texts)
        for few in slices(texts):
            yield self._encode(few, max_tokens)

    def _encode(self, texts: Sequence[str], max_tokens: int | None) -> Sequence[Encoding]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [Encoding(tokens.ids[:max_tokens]) for tokens in encoded]


def _build(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    letters = _byte_letters()
    words = [token.decode("latin-1").translate(letters) for token in vocabulary.tokens]
    model = BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=[(words[left], words[right]) for left, right in vocabulary.merges],
    )
    tokenizer = tokenizers.Tokenizer(model)
    pattern = tokenizers.Regex(VOCABULARIES[vocabulary.name])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_letters() -> dict[int, int]:
    """The printable letter that stands for each byte in a byte-level vocabulary (GPT-2's ``bytes_to_unicode``)."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = [byte for byte in range(SINGLE_BYTES) if byte not in printable]
    return {byte: byte for byte in printable} | {byte: 256 + i for i, byte in enumerate(others)}
