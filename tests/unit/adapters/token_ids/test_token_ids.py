"""OpenAI's vocabularies: ids to text, text to ids."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.token_ids import (
    VOCABULARIES,
    BytePairDecoder,
    BytePairTokenizer,
    foreign,
    load_vocabulary,
)
from vectoll.domain.errors import InvalidRequest

# What tiktoken 0.14 makes of these texts.
GOLDEN = [
    ("cl100k_base", "This is a test.", [2028, 374, 264, 1296, 13]),
    ("cl100k_base", "hello world", [15339, 1917]),
    ("cl100k_base", "tiktoken is great!", [83, 1609, 5963, 374, 2294, 0]),
    ("cl100k_base", "Don't  stop\r\n\n 12345", [8161, 956, 220, 3009, 81923, 220, 4513, 1774]),
    (
        "cl100k_base",
        "naïve café — 北京 👍🏽",
        [3458, 38672, 588, 53050, 2001, 95405, 245, 47653, 62904, 235, 9468, 237, 121],
    ),
    ("cl100k_base", "<|endoftext|>", [27, 91, 8862, 728, 428, 91, 29]),
    ("cl100k_base", " \t ", [66597]),
    ("r50k_base", "This is a test.", [1212, 318, 257, 1332, 13]),
    ("r50k_base", "hello world", [31373, 995]),
    ("r50k_base", "tiktoken is great!", [83, 1134, 30001, 318, 1049, 0]),
    ("r50k_base", "Don't  stop\r\n\n 12345", [3987, 470, 220, 2245, 201, 628, 17031, 2231]),
    (
        "r50k_base",
        "naïve café — 北京 👍🏽",
        [2616, 38776, 40304, 851, 10263, 234, 245, 12859, 105, 50169, 235, 8582, 237, 121],
    ),
    ("r50k_base", "<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
    ("r50k_base", " \t ", [220, 197, 220]),
]
TEXTS = {name: BytePairDecoder(load_vocabulary(name)) for name in VOCABULARIES}
TOKENIZERS = {name: BytePairTokenizer(load_vocabulary(name)) for name in VOCABULARIES}
vocabularies = pytest.mark.parametrize("name", sorted(VOCABULARIES))


def refused(name: str, inputs: list[list[int]]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as error:
        TEXTS[name].decode(inputs)
    return error.value


@pytest.mark.parametrize(("name", "text", "ids"), GOLDEN)
def test_ids_are_tiktokens(name: str, text: str, ids: list[int]) -> None:
    assert list(TOKENIZERS[name].encode([text])[0].ids) == ids
    assert TEXTS[name].decode([ids]) == [text]


def test_the_specs_own_example_is_gpt2s() -> None:
    assert TEXTS["r50k_base"].decode([[1212, 318, 257, 1332, 13]]) == ["This is a test."]


@pytest.mark.parametrize(
    ("name", "size", "sha256"),
    [
        ("cl100k_base", 100256, "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
        ("r50k_base", 50256, "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"),
    ],
)
def test_the_packaged_ranks_are_tiktokens_own_file(name: str, size: int, sha256: str) -> None:
    tokens = load_vocabulary(name).tokens
    assert len(tokens) == len(set(tokens)) == size
    lines = "".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens))
    assert hashlib.sha256(lines.encode()).hexdigest() == sha256


@vocabularies
@given(text=st.text(min_size=1))
def test_decoding_undoes_encoding(name: str, text: str) -> None:
    assert TEXTS[name].decode([TOKENIZERS[name].encode([text])[0].ids]) == [text]


@vocabularies
@given(text=st.text())
def test_a_text_has_at_most_as_many_tokens_as_bytes(name: str, text: str) -> None:
    assert TOKENIZERS[name].encode([text])[0].token_count <= len(text.encode())


@vocabularies
def test_a_cut_inside_a_character_becomes_a_replacement_character(name: str) -> None:
    ids = list(TOKENIZERS[name].encode(["👍🏽"])[0].ids)
    assert "\ufffd" in TEXTS[name].decode([ids[:-1]])[0]


@pytest.mark.parametrize(
    ("name", "special"), [("cl100k_base", 100257), ("cl100k_base", 100276), ("r50k_base", 50256)]
)
def test_a_special_id_is_refused_by_that_name(name: str, special: int) -> None:
    error = refused(name, [[1], [1, special]])
    assert error.issues[0].path == ("input", 1)
    assert "special token" in str(error)


@vocabularies
@pytest.mark.parametrize("outside", [-1, 100256, 2**63])
def test_an_id_outside_the_vocabulary_is_refused(name: str, outside: int) -> None:
    error = refused(name, [[1, outside]])
    assert error.issues[0].path == ("input", 0)
    assert "outside 0.." in str(error)


@vocabularies
def test_truncation_keeps_the_first_tokens(name: str) -> None:
    whole, cut = (TOKENIZERS[name].encode(["one two three four"], max_tokens=n)[0] for n in (None, 2))
    assert list(cut.ids) == list(whole.ids)[:2]


@vocabularies
def test_a_lone_surrogate_is_refused_with_its_index(name: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        TOKENIZERS[name].encode(["fine", "\ud800"])
    assert error.value.issues[0].path == ("input", 1)


def test_an_unknown_vocabulary_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        load_vocabulary("o200k_base")


def test_ids_that_stand_for_more_text_than_could_be_sent_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spaces = load_vocabulary("cl100k_base").tokens.index(b" " * 80)
    monkeypatch.setattr(foreign, "MAX_TEXT_BYTES", 800)
    assert TEXTS["cl100k_base"].decode([[spaces] * 5, [spaces] * 5]) == [" " * 400] * 2
    with pytest.raises(InvalidRequest, match="more than 800 bytes") as refused:
        TEXTS["cl100k_base"].decode([[spaces] * 5, [spaces] * 6])
    assert refused.value.issues[0].path == ("input", 1)
