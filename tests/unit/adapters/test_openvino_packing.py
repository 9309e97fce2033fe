"""How sequences are laid out in rows. That the vectors are right is for the engine's own tests."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectoll.adapters.engines.openvino.packing import NOBODY, PackedBatch, pack, round_up

batches = st.lists(st.lists(st.integers(1, 999), min_size=1, max_size=150), min_size=1, max_size=60)


def sequences_of(packed: PackedBatch) -> list[list[int]]:
    """What a reader of the layout finds, in the caller's order."""
    ends = np.cumsum(packed.lengths)
    tokens = packed.ids.reshape(-1)[packed.places]
    found = [tokens[end - length : end].tolist() for end, length in zip(ends, packed.lengths, strict=True)]
    return [found[packed.order.index(index)] for index in range(len(found))]


@given(batches, st.booleans())
def test_every_sequence_is_found_again(batch: list[list[int]], shared_rows: bool) -> None:
    assert sequences_of(pack(batch, 512, shared_rows=shared_rows)) == batch


@given(batches, st.booleans())
def test_a_token_knows_its_owner_and_its_position(batch: list[list[int]], shared_rows: bool) -> None:
    packed = pack(batch, 512, shared_rows=shared_rows)
    starts = np.cumsum(packed.lengths) - packed.lengths
    for owner, (start, length) in enumerate(zip(starts, packed.lengths, strict=True)):
        places = packed.places[start : start + length]
        assert (packed.owners.reshape(-1)[places] == owner).all()
        assert packed.positions.reshape(-1)[places].tolist() == list(range(length))
        rows = places // packed.ids.shape[1]
        assert (rows == rows[0]).all()
    assert (packed.owners != NOBODY).sum() == packed.lengths.sum()
    whose = np.broadcast_to(packed.query_owners, packed.owners.shape)
    assert (whose == packed.owners)[packed.owners != NOBODY].all()


@given(st.lists(st.integers(3, 30), min_size=24, max_size=60))
def test_little_is_computed_for_padding(lengths: list[int]) -> None:
    packed = pack([[1] * length for length in lengths], 512)
    assert packed.ids.size <= sum(lengths) * 1.15 + 64


@given(batches)
def test_rows_are_no_longer_than_the_longest_needs(batch: list[list[int]]) -> None:
    longest = max(map(len, batch))
    assert pack(batch, 512).ids.shape[1] <= max(128, round_up(longest))
    assert pack(batch, longest).ids.shape[1] <= longest
    assert pack(batch, 512, shared_rows=False).ids.shape == (len(batch), round_up(longest))


def test_one_sequence_is_not_stretched() -> None:
    assert pack([[1] * 7], 512).ids.shape == (1, 7)
    assert pack([[1] * 7, [1] * 5], 512).ids.shape == (1, 12)


def test_one_mask_serves_all_queries_of_a_row_with_one_sequence() -> None:
    assert pack([[1] * 300, [1] * 300], 512).query_owners.shape == (2, 1)
    assert pack([[1] * 7, [1] * 5], 512).query_owners.shape == (1, 12)


@pytest.mark.parametrize("batch", [[[1], []], [[1], [1] * 9]])
def test_what_the_positions_do_not_cover_is_refused(batch: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="per position"):
        pack(batch, 8)


def test_shapes_are_few() -> None:
    rounded = [round_up(length) for length in range(1, 513)]
    assert all(0 <= up - length < 16 for length, up in enumerate(rounded, 1))
    assert all(up / length <= 1.125 for length, up in enumerate(rounded, 1))
    assert len(set(rounded)) <= 64
    assert rounded[:16] == list(range(1, 17))
