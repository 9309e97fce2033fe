"""BERT's ids word by word: always those of the library, in bounded memory."""

import sys
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.minilm import minilm
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from vectoll.adapters.tokenizers import words
from vectoll.adapters.tokenizers.checkpoint import CheckpointTokenizer
from vectoll.adapters.tokenizers.words import MAX_WORD_CHARACTERS, WordTokenizer, words_of


def library() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm().tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


LIBRARY = library()


def by_words(tokenizer: Tokenizer) -> WordTokenizer:
    by_word = words_of(tokenizer)
    assert by_word is not None
    return by_word


FIRST = by_words(LIBRARY)


def ids_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]


def small(*, lowercase: bool = True, **model: object) -> Tokenizer:
    """A WordPiece of a few words."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "b", "un", "##known", "##a", "Un", "!", "é", "e"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", **model))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return tokenizer


TEXT = st.text() | st.text("aBun known é漢\u0301\u200d\x01\x0b\xa0\t\n'’![CLS]", max_size=40)


@settings(max_examples=1000)
@given(TEXT)
@example("[CLS] a text with [MASK] in it")
@example("unaffable " + "x" * MAX_WORD_CHARACTERS + " " + "x" * (MAX_WORD_CHARACTERS + 1))
@example(" \t ")
def test_ids_are_the_librarys_before_and_after_the_words_are_known(text: str) -> None:
    new = by_words(LIBRARY)
    (wanted,) = ids_of(LIBRARY, [text])
    for tokenizer in (new, new, FIRST):
        assert tokenizer.encode(text) in (wanted, None)


def test_every_character_is_read_as_by_the_library_wherever_it_stands() -> None:
    characters = [
        chr(c) for c in (*range(0x3100), *range(0x3100, sys.maxunicode, 61)) if not 0xD800 <= c < 0xE000
    ]
    texts = [f"ab{c}cd {c} !{c}. {c}e x{c} Z" for c in characters]
    tokenizer = by_words(LIBRARY)
    for begin in range(0, len(texts), 500):
        few = texts[begin : begin + 500]
        assert [tokenizer.encode(text) for text in few] == ids_of(LIBRARY, few)


@pytest.mark.parametrize(
    "text", ["[CLS]", "a[SEP]b", "what is a [MASK] token?", "x" * (MAX_WORD_CHARACTERS + 1)]
)
def test_special_tokens_and_long_words_are_left_to_the_library(text: str) -> None:
    tokenizer = by_words(LIBRARY)
    assert tokenizer.encode(text) is None
    mixed = ["hello", text, "world"]
    checkpoint = CheckpointTokenizer(library(), 30522)
    assert [list(e.ids) for e in checkpoint.encode(mixed)] == ids_of(LIBRARY, mixed)


@settings(max_examples=300)
@example(text="Un unknown Aa", lowercase=True)
@example(text="Un unknown Aa", lowercase=False)
@given(text=st.text("aAbBUunknow! éE", max_size=20), lowercase=st.booleans())
def test_case_and_unknown_words_are_the_librarys(text: str, lowercase: bool) -> None:
    tokenizer = small(lowercase=lowercase)
    by_word = by_words(tokenizer)
    assert [by_word.encode(text)] == ids_of(tokenizer, [text])


TEMPLATES = ["[CLS] $A [SEP]", "$A [SEP]", "[CLS] [UNK] $A [SEP] [SEP]", "$A", "[CLS] $A [SEP] $A"]
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
ADDED = st.builds(
    AddedToken, st.sampled_from(["B", "n", "Un", "a b", "\u00e9", "#"]), **dict.fromkeys(FLAGS, st.booleans())
)
PIECES = [*"abBn#! \t\x0b\xa0\u00e9\u6f22", "e\u0301", "un", "Un", "known", "a" * 6, "a" * 24]


@st.composite
def tokenizers(draw: st.DrawFn) -> Tokenizer:
    """With BERT's parts, whatever they are told."""
    longest = draw(st.sampled_from([5, 23, 24, 100]))
    continuing = draw(st.sampled_from(["##", "", "u"]))
    tokenizer = small(max_input_chars_per_word=longest, continuing_subword_prefix=continuing)
    clean, chinese, lowercase = (draw(st.booleans()) for _ in range(3))
    accents = draw(st.none() | st.booleans())
    tokenizer.normalizer = normalizers.BertNormalizer(clean, chinese, accents, lowercase)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=draw(st.sampled_from(TEMPLATES)),
        special_tokens=[("[UNK]", 0), ("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.add_tokens(draw(st.lists(ADDED, max_size=2)))
    return tokenizer


@settings(max_examples=600, deadline=None)
@given(tokenizers(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_of_any_configuration_words_are_read_as_by_the_library_or_left_to_it(
    tokenizer: Tokenizer, text: str
) -> None:
    by_word = words_of(tokenizer)
    if by_word is not None:
        for _ in range(2):
            assert by_word.encode(text) in (tokenizer.encode(text).ids, None)


def test_only_so_many_words_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MAX_WORDS", 50)
    tokenizer = by_words(LIBRARY)
    texts = [" ".join(f"w{n}x{i}" for i in range(7)) for n in range(100)]
    for text, wanted in zip(texts, ids_of(LIBRARY, texts), strict=True):
        assert tokenizer.encode(text) == wanted
        assert len(tokenizer._known) <= 50


def test_much_text_at_once_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = CheckpointTokenizer(library(), 30522)
    few, many = ["word " * 10] * 4, ["word " * 1001] * 4
    monkeypatch.setattr(WordTokenizer, "encode", lambda *_: [1, 2, 3])
    assert [e.token_count for e in checkpoint.encode(few)] == [3] * 4
    assert [e.token_count for e in checkpoint.encode(many)] == [1003] * 4


def test_other_tokenizers_are_not_read_by_word() -> None:
    byte_level, cut, normalized, template = small(), small(max_input_chars_per_word=9), small(), small()
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel()
    normalized.add_tokens([AddedToken("Unknown", normalized=True)])
    template.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP] $A", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    assert [words_of(t) for t in (byte_level, cut, normalized, template)] == [None] * 4
    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    assert words_of(plain) is None
