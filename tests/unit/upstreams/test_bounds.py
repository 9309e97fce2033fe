"""A bound on tokens that holds for every kind of vocabulary."""

import unicodedata

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tests.minilm import PACKAGE
from tokenizers import models, normalizers, pre_tokenizers

from vectoll.adapters.checkpoints import locate
from vectoll.adapters.token_ids import BytePairTokenizer, load_vocabulary
from vectoll.adapters.upstreams.bounds import SPECIAL_TOKENS, token_bound
from vectoll.domain.catalog import ModelSource

CL100K = BytePairTokenizer(load_vocabulary("cl100k_base"))


def wordpiece() -> tokenizers.Tokenizer:
    folder = locate("all-MiniLM-L6-v2", ModelSource(package=PACKAGE))
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def one_token_per_normalised_character() -> tokenizers.Tokenizer:
    """The worst that a Unigram vocabulary after NFKC, as XLM-R's, can do."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    return tokenizer


WORDPIECE = wordpiece()
UNIGRAM = one_token_per_normalised_character()


@given(st.text(max_size=200))
@example("\ufdfa" * 10)
@example("\u0390\u01d5İß")
@example("각" * 20)
def test_no_tokenizer_finds_more_tokens(text: str) -> None:
    bound = token_bound(text)
    assert CL100K.encode([text])[0].token_count <= bound
    assert len(WORDPIECE.encode(text).ids) <= bound
    assert len(UNIGRAM.encode(text).ids) + 2 <= bound
    assert len(unicodedata.normalize("NFKC", text).encode()) <= bound


def test_ascii_costs_its_length() -> None:
    assert token_bound("a" * 1000) == 1000 + SPECIAL_TOKENS


def test_a_lone_surrogate_is_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        token_bound("\ud800")
