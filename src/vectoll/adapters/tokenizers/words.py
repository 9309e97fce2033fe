"""BERT's token ids word by word: known words are looked up, and words of plain letters need no library.

BERT's rules (Devlin et al. 2018; ``BertPreTokenizer`` and ``WordPiece`` of ``tokenizers``) never look beyond a space or
an ASCII punctuation mark, so a text can be cut there, and each word read alone.
"""

import re
from collections.abc import Sequence
from string import punctuation

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

MAX_WORDS = 1 << 14
MAX_WORD_CHARACTERS = 24
"""Bounds on what is remembered: 4 MB of English words, 26 MB of the longest possible."""

MAX_CHARACTERS = 5_000
"""More text at once is left to the library, which lets other threads run."""

_MARK = re.escape(punctuation)
_cut = re.compile(rf"[^ \t\r\n{_MARK}]+|[{_MARK}]").findall

_PROBE = "a"


class WordTokenizer:
    """Gives the ids that ``tokenizer`` would give, or None. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        normalizer: BertNormalizer,
        model: WordPiece,
        prefix: Sequence[int],
        suffix: Sequence[int],
    ) -> None:
        """``tokenizer`` has BERT's rules and puts ``prefix`` before each text and ``suffix`` behind: ``words_of``."""
        self._tokenizer = tokenizer
        self._id_of = model.token_to_id
        self._continuing = model.continuing_subword_prefix
        self._lowercase = normalizer.lowercase
        self._prefix, self._suffix = prefix, suffix
        added = [re.escape(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        self._find_added = re.compile("|".join(added) or r"(?!)").search
        self._known: dict[str, Sequence[int]] = {}

    def encode(self, text: str) -> list[int] | None:
        """The ids of ``text``, special ones included; None where the library has to read it.

        Raises TypeError, as the library does, for a str that has no UTF-8 form.
        """
        if self._find_added(text):
            return None
        words, known = _cut(text), self._known
        try:
            return [*self._prefix, *[i for word in words for i in known[word]], *self._suffix]
        except KeyError:
            if max(map(len, words)) > MAX_WORD_CHARACTERS:
                return None
        known = self._learn(words)
        return [*self._prefix, *[i for word in words for i in known[word]], *self._suffix]

    def _learn(self, words: Sequence[str]) -> dict[str, Sequence[int]]:
        """The ids of each word, remembered for next time."""
        known, ids, strange = self._known, {}, []
        for word in dict.fromkeys(words):
            pieces = known.get(word)
            if pieces is None:
                pieces = self._pieces(word)
            if pieces is None:
                strange.append(word)
            else:
                ids[word] = pieces
        if strange:
            ids |= self._ask(strange)
        if len(known) + len(ids) > MAX_WORDS:
            known = self._known = {}
        known |= ids
        return ids

    def _pieces(self, word: str) -> list[int] | None:
        """WordPiece: the longest known piece, again and again. None for a word without, or not in printable ASCII."""
        if not (word.isascii() and word.isprintable()):
            return None
        if self._lowercase:
            word = word.lower()
        ids: list[int] = []
        begin, prefix = 0, ""
        while begin < len(word):
            for end in range(len(word), begin, -1):
                piece = self._id_of(prefix + word[begin:end])
                if piece is not None:
                    break
            else:
                return None
            ids.append(piece)
            begin, prefix = end, self._continuing
        return ids

    def _ask(self, words: Sequence[str]) -> dict[str, Sequence[int]]:
        """What the library makes of each word."""
        read = self._tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        ids: list[list[int]] = [[] for _ in words]
        for token_id, index in zip(read.ids, read.word_ids, strict=True):
            assert index is not None  # only special tokens belong to no word
            ids[index].append(token_id)
        return dict(zip(words, ids, strict=True))


def words_of(tokenizer: Tokenizer) -> WordTokenizer | None:
    """For a tokenizer with BERT's rules; None for any other, or with added tokens that it looks for in lower case."""
    normalizer, model = tokenizer.normalizer, tokenizer.model
    if not (
        isinstance(normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        and isinstance(model, WordPiece)
        and model.max_input_chars_per_word >= MAX_WORD_CHARACTERS
    ):
        return None
    if any(token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        return None
    special, probe = tokenizer.encode("").ids, model.token_to_id(_PROBE)
    ids = tokenizer.encode(f"{_PROBE} {_PROBE}").ids
    if probe is None or probe in special or probe not in ids:
        return None
    begin = ids.index(probe)
    prefix, suffix = ids[:begin], ids[begin + 2 :]
    if prefix + suffix != special:
        return None
    return WordTokenizer(tokenizer, normalizer, model, prefix, suffix)
