"""What texts begin with, computed once: the same bits, less to compute, nothing shared between callers."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cpu import HAS_AVX512_BF16, needs_avx2

from vectoll.adapters.checkpoints import Checkpoint
from vectoll.adapters.engines.native import engine as engine_module
from vectoll.adapters.engines.native import load_engine
from vectoll.adapters.engines.native import prefixes as prefixes_module
from vectoll.adapters.engines.native.engine import NativeEngine, _Team
from vectoll.adapters.engines.native.prefixes import FIRST_SEEN, Prefixes
from vectoll.domain.catalog import Pooling
from vectoll.domain.identity import NOBODY, Caller
from vectoll.kernels.library import F32_AVX2, PREFIX_BLOCK, load_library

Array = np.ndarray[Any, Any]
BLOCK_BYTES = 64
LENGTH = 5 * PREFIX_BLOCK


def left(prefixes: Prefixes, *sequences: Sequence[int], caller: Caller = NOBODY) -> list[int]:
    """Compute a batch; what each of its sequences left to compute."""
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    ids = np.concatenate([np.array(ids, np.int32) for ids in sequences])
    known = [prefixes.known(ids, caller) for ids in sequences]
    begun = prefixes.begin(ids, lengths, [caller] * len(sequences))
    assert known == list(lengths - begun.lengths if begun else 0 * lengths)
    if begun is None:
        return [len(ids) for ids in sequences]
    assert [
        len(part) for part in np.split(begun.ids, np.cumsum(begun.lengths)[:-1])
    ] == begun.lengths.tolist()
    prefixes.keep(begun)
    return list(begun.lengths)


@pytest.fixture
def prefixes() -> Prefixes:
    return Prefixes(BLOCK_BYTES, 100 * BLOCK_BYTES)


def test_a_beginning_is_known_from_its_third_time_on(prefixes: Prefixes) -> None:
    text = list(range(LENGTH))
    assert [left(prefixes, [*text, end])[0] for end in range(4)] == [LENGTH + 1, LENGTH + 1, 1, 1]


def test_the_last_token_is_never_known(prefixes: Prefixes) -> None:
    text = list(range(LENGTH))
    assert [left(prefixes, text)[0] for _ in range(3)] == [LENGTH, LENGTH, PREFIX_BLOCK]


def test_what_one_caller_sent_is_not_known_of_another(prefixes: Prefixes) -> None:
    text = list(range(LENGTH + 1))
    for _ in range(3):
        left(prefixes, text)
    assert left(prefixes, text, caller=Caller.keyless("b")) == [LENGTH + 1]
    assert left(prefixes, text) == [1]


def test_two_instructions_that_begin_alike_are_both_known(prefixes: Prefixes) -> None:
    both = [[*range(8), *[n] * 12, 99] for n in (50, 60)]
    for _ in range(2):
        for text in both:
            left(prefixes, text)
    assert [left(prefixes, text) for text in both] == [[1], [1]]


def test_the_same_tokens_behind_others_are_not_the_same(prefixes: Prefixes) -> None:
    for _ in range(3):
        left(prefixes, [1] * 4 + [2] * 4 + [9])
    assert left(prefixes, [3] * 4 + [2] * 4 + [9]) == [9]
    assert left(prefixes, [2] * 4 + [1] * 4 + [9]) == [9]


def test_texts_of_one_batch_that_begin_alike_are_kept_once(prefixes: Prefixes) -> None:
    texts = [[*range(LENGTH), end] for end in range(6)]
    begun = prefixes.begin(
        np.array(texts, np.int32).ravel(), np.array([LENGTH + 1] * 6, np.int32), [NOBODY] * 6
    )
    assert begun
    assert [len(beginning.kept) for beginning in begun.beginnings] == [0, LENGTH // PREFIX_BLOCK, 0, 0, 0, 0]
    prefixes.keep(begun)
    assert left(prefixes, *texts, [7, 7]) == [1] * 6 + [2]


def test_what_is_kept_has_a_limit_and_the_first_of_a_chain_stays_longest() -> None:
    prefixes = Prefixes(BLOCK_BYTES, 5 * BLOCK_BYTES)
    long = [*range(1000), 0]
    for _ in range(5):
        left(prefixes, long)
    assert len(prefixes._filled) == 5
    other = [77] * (2 * PREFIX_BLOCK) + [0]
    for _ in range(2):
        left(prefixes, other)
    assert len(prefixes._filled) == 5
    assert left(prefixes, other) == [1]
    assert left(prefixes, long) == [1001 - 3 * PREFIX_BLOCK]


def test_of_what_was_never_used_the_end_is_forgotten_first() -> None:
    prefixes = Prefixes(BLOCK_BYTES, 5 * BLOCK_BYTES)
    first, second = ([n] * (blocks * PREFIX_BLOCK) + [0] for n, blocks in ((1, 3), (2, 4)))
    for text in (first, first, second, second):
        left(prefixes, text)
    assert left(prefixes, first) == [1 + 2 * PREFIX_BLOCK]


def test_a_long_beginning_is_learned_in_few_steps_of_which_each_doubles_what_is_known() -> None:
    prefixes = Prefixes(BLOCK_BYTES, 1000 * BLOCK_BYTES)
    text = [*range(1000), 0]
    assert [left(prefixes, text)[0] for _ in range(7)] == [1001, 1001, 937, 873, 745, 489, 1]
    left(prefixes, [2000, *text])
    assert len(prefixes._seen) == FIRST_SEEN


def test_what_came_once_has_a_limit(prefixes: Prefixes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes_module, "MAX_SEEN", 10)
    for start in range(50):
        left(prefixes, [start] * 9)
    assert len(prefixes._seen) == 10


def test_what_was_not_computed_after_all_is_not_known(prefixes: Prefixes) -> None:
    ids = np.arange(LENGTH + 1, dtype=np.int32)
    for _ in range(4):  # begun, and never kept: the engine failed
        prefixes.begin(ids, np.array([len(ids)], np.int32), [NOBODY])
    assert [left(prefixes, ids.tolist()) for _ in range(2)] == [[LENGTH + 1], [1]]


def engine_for(checkpoint: Checkpoint, products: str, blocks: int, streams: int = 1) -> NativeEngine:
    with pytest.MonkeyPatch.context() as patch:
        if products == "f32_avx2":
            patch.setattr(engine_module, "capabilities", lambda: F32_AVX2)
        plain = load_engine(checkpoint, precision=products.removesuffix("_avx2"), streams=streams)
        assert plain._packed
        return load_engine(
            checkpoint,
            precision=products.removesuffix("_avx2"),
            streams=streams,
            prefix_bytes=blocks * plain._packed.block_bytes,
        )


PRODUCTS = ["f32_avx2", *(["f32", "bf16"] if HAS_AVX512_BF16 else [])]
MODELS = ["qwen3", "bge-en-icl"]
"""With norms of queries and keys; with a sliding window."""
SENT = st.tuples(
    st.builds(Caller.keyless, st.sampled_from("ab")),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=3),
)
"""Who, and runs of the same token: of few kinds, so that many begin alike."""


@needs_avx2
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_the_same_bit_by_bit(
    tiny_of: Callable[[str], Checkpoint], model: str, products: str
) -> None:
    checkpoint = tiny_of(model)
    known = 0

    @settings(max_examples=25, deadline=None)
    @given(
        batches=st.lists(st.lists(SENT, min_size=1, max_size=5), min_size=3, max_size=10),
        blocks=st.integers(1, 40),
        is_alone=st.booleans(),
    )
    def check(batches: list[list[Any]], blocks: int, is_alone: bool) -> None:
        nonlocal known
        engine = engine_for(checkpoint, products, blocks)
        engine._teams[0] = _Team.create(library(), 2)
        for batch in batches:
            texts = [[token for token, count in runs for _ in range(count)] for _, runs in batch]
            wanted = np.array(engine.embed(texts, 0, is_alone=False))
            callers = [caller for caller, _ in batch]
            assert np.array_equal(
                np.array(engine.embed(texts, 0, is_alone=is_alone, callers=callers)), wanted
            )
        assert engine._prefixes
        assert len(engine._prefixes._filled) <= blocks
        known += len(engine._prefixes._filled)

    check()
    assert known > 0


def library() -> Any:
    found = load_library()
    assert found
    return found


@needs_avx2
def test_streams_side_by_side_share_what_is_known(tiny_of: Callable[[str], Checkpoint]) -> None:
    """A block that one stream forgets stays while another reads it."""
    engine = engine_for(tiny_of("qwen3"), PRODUCTS[-1], blocks=8, streams=4)
    rng = random.Random(3)
    texts = [[rng.randrange(3) for _ in range(4)] * rng.randrange(2, 9) + [end] for end in range(200)]
    wanted = [np.array(engine.embed([text], 0)[0]) for text in texts]

    def run(stream: int) -> bool:
        order = random.Random(stream).sample(range(200), 200)
        got = [np.array(engine.embed([texts[i]], stream, is_alone=False, callers=[NOBODY])[0]) for i in order]
        return all(np.array_equal(vector, wanted[i]) for vector, i in zip(got, order, strict=True))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(run, range(4)))
    engine.close()


@needs_avx2
@pytest.mark.parametrize(
    ("model", "pooling"),
    [
        ("bge-m3", Pooling.LAST),
        ("nemotron-vl", Pooling.LAST),
        ("qwen3", Pooling.MEAN),
        ("qwen3", Pooling.CLS),
    ],
)
def test_a_model_whose_tokens_see_what_follows_or_that_needs_them_all_shares_nothing(
    tiny_of: Callable[[str], Checkpoint], model: str, pooling: Pooling
) -> None:
    engine = load_engine(tiny_of(model), pooling=pooling, streams=1, prefix_bytes=2**20)
    text = [5] * 20
    first = np.array(engine.embed([text], 0, callers=[NOBODY]))
    assert all(np.array_equal(np.array(engine.embed([text], 0, callers=[NOBODY])), first) for _ in range(3))
    assert engine._prefixes is None
