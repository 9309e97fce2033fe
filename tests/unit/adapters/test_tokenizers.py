"""Text to ids: special tokens in place, nothing cut or padded unless asked, no text that crashes."""

import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.minilm import minilm
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vectoll.adapters.checkpoints import Checkpoint, read_checkpoint
from vectoll.adapters.tokenizers import CheckpointTokenizer, load_tokenizer
from vectoll.core import reading
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError, InferenceFailed, InputTooLong, InvalidRequest

CLS, SEP = 101, 102
START, END, PAD, UNKNOWN, A, B, EXTRA = range(7)
NAMES = ["<s>", "</s>", "<pad>", "<unk>", "a", "b", "<extra>"]


@pytest.fixture(scope="module")
def bert() -> CheckpointTokenizer:
    return load_tokenizer(minilm())


def tiny(template: str, *, extra: bool = False) -> Tokenizer:
    names = NAMES if extra else NAMES[:-1]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", *(["<extra>"] if extra else [])])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", START), ("</s>", END), ("<pad>", PAD)]
    )
    return tokenizer


def saved(folder: Path, tokenizer: Tokenizer, **changes: object) -> Checkpoint:
    tokenizer.save(str(folder / "tokenizer.json"))
    checkpoint = replace(
        minilm(),
        folder=folder,
        architecture=replace(minilm().architecture, vocab=6),
        end_ids=frozenset(),
        end_token="</s>",
        padding_token=None,
    )
    return replace(checkpoint, **changes)  # type: ignore[arg-type]


def ids(
    tokenizer: CheckpointTokenizer, texts: Sequence[str], max_tokens: int | None = None
) -> list[list[int]]:
    return [list(encoding.ids) for encoding in tokenizer.encode(texts, max_tokens=max_tokens)]


def test_special_tokens_are_in_place_and_counted(bert: CheckpointTokenizer) -> None:
    (encoding,) = bert.encode(["hello world"])
    assert (encoding.ids, encoding.token_count) == ([CLS, 7592, 2088, SEP], 4)
    assert bert.vocab_size == 30522


def test_the_truncation_and_padding_saved_in_the_file_are_off(bert: CheckpointTokenizer) -> None:
    short, long = bert.encode(["hi", "word " * 1000])
    assert (short.token_count, long.token_count) == (3, 1002)


def test_cutting_keeps_the_special_tokens(bert: CheckpointTokenizer) -> None:
    assert ids(bert, ["one two three four", "one"], max_tokens=4) == [
        [CLS, 2028, 2048, SEP],
        [CLS, 2028, SEP],
    ]


def test_cutting_without_a_suffix_keeps_the_start() -> None:
    assert ids(CheckpointTokenizer(tiny("<s> $A"), 6), ["a b a b"], max_tokens=3) == [[START, A, B]]
    assert ids(CheckpointTokenizer(tiny("$A"), 6), ["a b a b"], max_tokens=3) == [[A, B, A]]


@pytest.mark.parametrize("text", ["\ud800", "fine until \udfff here"])
def test_a_lone_surrogate_is_the_callers_mistake(bert: CheckpointTokenizer, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\].*Unicode") as caught:
        bert.encode(["fine", text])
    assert caught.value.issues[0].path == ("input", 1)
    assert "here" not in str(caught.value)


@settings(max_examples=300)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_any_text_has_tokens_between_its_special_ones(texts: list[str]) -> None:
    for encoding in TOKENIZER.encode(texts):
        assert (encoding.ids[0], encoding.ids[-1]) == (CLS, SEP)


TOKENIZER = load_tokenizer(minilm())


@given(text=st.text(min_size=1), limit=st.integers(2, 9))
def test_cutting_is_what_the_tokenizer_itself_would_do(text: str, limit: int) -> None:
    reference = Tokenizer.from_file(str(minilm().tokenizer_file))
    reference.no_padding()
    reference.enable_truncation(limit)
    assert ids(TOKENIZER, [text], max_tokens=limit) == [reference.encode(text).ids]


def test_text_without_any_token_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\]: .*no tokens"):
        CheckpointTokenizer(tiny("$A"), 6).encode(["a", " "])


def test_a_token_beyond_the_embedding_table_is_the_callers_mistake() -> None:
    tokenizer = CheckpointTokenizer(tiny("<s> $A </s>", extra=True), 6)
    assert ids(tokenizer, ["a b"]) == [[START, A, B, END]]
    with pytest.raises(InvalidRequest, match=r"input\[1\]: .*special token"):
        tokenizer.encode(["a", "a <extra>"])


@given(st.lists(st.text("ab ", max_size=12).map(lambda text: f"{text} a"), min_size=1, max_size=12))
def test_many_texts_are_read_a_few_at_a_time(texts: list[str]) -> None:
    slices: list[Sequence[str]] = []

    class Watched(CheckpointTokenizer):
        def _encode(self, texts: Sequence[str]) -> Sequence[Any]:
            slices.append(texts)
            return super()._encode(texts)

    tokenizer = Watched(tiny("<s> $A </s>"), 6)
    one_by_one = [ids(tokenizer, [text])[0] for text in texts]
    slices.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MAX_SLICE_TEXTS", 5)
        patch.setattr(reading, "MAX_SLICE_CHARACTERS", 30)
        assert ids(tokenizer, texts) == one_by_one
    assert all(len(few) <= 5 for few in slices)
    assert len(texts) < 4 or all(sum(map(len, few[:-1])) < 30 for few in slices)
    assert len(slices) <= 1 + len(texts) // 5 + sum(map(len, texts)) // 30


def test_bad_texts_in_later_slices_are_named(bert: CheckpointTokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[700\].*Unicode"):
        bert.encode(["x"] * 700 + ["\ud800"])
    with pytest.raises(InvalidRequest, match=r"input\[700\]: .*no tokens"):
        CheckpointTokenizer(tiny("$A"), 6).encode(["a"] * 700 + [" "])


@pytest.mark.parametrize("count", [1, 5, 500])
def test_texts_behind_one_that_is_too_long_are_not_read(count: int) -> None:
    read: list[str] = []

    class Watched(CheckpointTokenizer):
        def _encode(self, texts: Sequence[str]) -> Sequence[Any]:
            read.extend(texts)
            return super()._encode(texts)

    tokenizer = Watched(tiny("<s> $A"), 6, end_id=END)
    texts = ["a b"] * count + ["a b a"] + ["a " * 600_000] * 10
    with pytest.raises(InputTooLong, match=f"length is 4 tokens, but input {count} has 5 tokens"):
        tokenizer.encode(texts, limit=4)
    assert len(read) < len(texts)


def test_many_characters_need_some_tokens(bert: CheckpointTokenizer) -> None:
    assert bert.encode(["x" * 1_000_000])[0].token_count == 3
    read = bert.encode(["x" * 1_000_000] * 2 + ["word " * 4000])
    assert [each.token_count for each in read] == [3, 3, 4002]
    with pytest.raises(InvalidRequest, match="2000000 characters make only 6 tokens") as caught:
        bert.encode(["x" * 1_000_000] * 30)
    assert caught.value.issues[0].path == ("input",)


def test_threads_share_one_tokenizer(bert: CheckpointTokenizer) -> None:
    texts = [f"text number {n}" for n in range(200)]
    expected = ids(bert, texts)
    with ThreadPoolExecutor(4) as threads:
        assert all(result == expected for result in threads.map(lambda _: ids(bert, texts), range(16)))


def test_last_token_pooling_finds_its_end_token(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, tiny("<s> $A </s>")), Pooling.LAST)
    assert ids(tokenizer, ["a"]) == [[START, A, END]]


def test_last_token_pooling_may_end_in_padding_where_the_model_was_trained_so(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, tiny("$A <pad>"), end_token=None, padding_token="<pad>")
    assert ids(load_tokenizer(checkpoint, Pooling.LAST), ["a"]) == [[A, PAD]]


def test_a_forgotten_end_token_is_put_in_place(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, tiny("<s> $A"), adds_end_token=True, pooling=Pooling.LAST)
    tokenizer = load_tokenizer(checkpoint)
    assert ids(tokenizer, ["a", "a b a b"], max_tokens=4) == [[START, A, END], [START, A, B, END]]
    assert tokenizer.last_id == END


@pytest.mark.parametrize("template", ["<s> $A", "$A", "$A <s>"])
def test_last_token_pooling_without_an_end_token_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(ConfigurationError, match="no end token last"):
        load_tokenizer(saved(tmp_path, tiny(template)), Pooling.LAST)


def test_other_poolings_add_nothing(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, tiny("<s> $A"), adds_end_token=True), Pooling.MEAN)
    assert ids(tokenizer, ["a"]) == [[START, A]]


def test_cls_pooling_without_a_first_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no special token first"):
        load_tokenizer(saved(tmp_path, tiny("$A </s>")), Pooling.CLS)


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_broken_tokenizer_file_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
        load_tokenizer(replace(minilm(), folder=tmp_path))


def panicking() -> Tokenizer:
    """What the library reads, and fails to encode with by no Exception: a template with a token that is not there."""
    document = json.loads(tiny("<s> $A").to_str())
    document["post_processor"]["special_tokens"] = {}
    return Tokenizer.from_str(json.dumps(document))


def test_a_tokenizer_with_which_the_library_panics_is_a_setting_to_correct(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        load_tokenizer(saved(tmp_path, panicking()))


def test_a_text_with_which_the_library_panics_fails() -> None:
    library = tiny("<s> $A")
    tokenizer = CheckpointTokenizer(library, 6)
    library.post_processor = panicking().post_processor
    with pytest.raises(InferenceFailed):
        tokenizer.encode(["a"])
    with pytest.raises(InferenceFailed):
        list(tokenizer.encode_in_slices(["a"]))


@pytest.mark.parametrize("rule", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"])
def test_what_tokenizer_config_says_of_berts_normaliser_wins_as_in_transformers(
    tmp_path: Path, rule: str
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(minilm().folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, rule: False}))
    text = "Hello na\u00efve \u6771\u4eac"
    theirs = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids(load_tokenizer(read_checkpoint(tmp_path)), [text]) == [theirs]
    assert ids(load_tokenizer(minilm()), [text]) != [theirs]


@pytest.mark.parametrize(
    ("normaliser", "said"),
    [
        ({"lowercase": False}, {"tokenizer_class": "BertTokenizer"}),
        ({"lowercase": False}, {}),
        ({"lowercase": False}, None),
        ({"handle_chinese_chars": False}, {"do_lower_case": True}),
        ({"strip_accents": False}, {"tokenizer_class": "BertTokenizerFast", "strip_accents": None}),
        ({"strip_accents": True}, {"do_lower_case": False}),
        ({"lowercase": False}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ],
)
def test_what_tokenizer_config_does_not_say_of_it_is_berts_default_as_in_transformers(
    tmp_path: Path, normaliser: dict[str, bool], said: dict[str, Any] | None
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(minilm().folder, tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["normalizer"] |= normaliser
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    (tmp_path / "tokenizer_config.json").unlink()
    if said is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    text = "Hello na\u00efve \u6771\u4eac"
    theirs = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert ids(load_tokenizer(read_checkpoint(tmp_path)), [text]) == [theirs]
