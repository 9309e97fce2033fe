"""Several sequences in one row, so that little is computed for padding.

A matrix product costs the same for 24 tokens of one text as for 12 tokens of two. So short sequences share rows of
equal length; a mask keeps each to itself in attention, and its positions count from its own first token. This is the
packing of Krell et al. (2021, arXiv:2107.02027) at inference, with first-fit decreasing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int32]]

SHARED_ROWS = (48, 128)
"""Shortest and longest row that several sequences share: longer ones cost attention, in shorter ones few fit."""
ROW_STEP = 8
"""Lengths of shared rows are multiples of this, so that shapes stay few."""
NOBODY = -1
"""Owns the padding."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B sequences in R rows of S places. All int32."""

    ids: Integers
    """[R, S], zero where there is padding."""
    owners: Integers
    """[R, S]: which sequence a place belongs to, counted in the order of ``places``; NOBODY for padding."""
    query_owners: Integers
    """``owners``, or its first column where every row has one sequence: [R, S] or [R, 1]."""
    positions: Integers
    """[R, S], from 0 in every sequence. Where there is a padding token that a text may have, from 1, and 0 is its."""
    places: Integers
    """[T]: where the tokens of the first sequence are in R * S, then those of the second …"""
    lengths: Integers
    """[B]"""
    order: Sequence[int]
    """[B]: the index in the caller's batch of each sequence here."""

    @property
    def inputs(self) -> list[Integers]:
        """What the graph reads, in its order."""
        return [self.ids, self.owners, self.query_owners, self.positions, self.places, self.lengths]


def pack(
    batch: Sequence[Sequence[int]],
    max_length: int,
    *,
    shared_rows: bool = True,
    padding_id: int | None = None,
) -> PackedBatch:
    """Lay out a batch. Without ``shared_rows`` every sequence has a row of its own.

    ``max_length`` is the longest that a row may be; ``padding_id`` is ``Architecture``'s. Raises ValueError for a
    sequence that is empty or longer.
    """
    lengths = list(map(len, batch))
    if min(lengths) < 1 or max(lengths) > max_length:
        raise ValueError(f"a sequence must have 1 to {max_length} tokens, one per position")
    rows, size = _rows(lengths, max_length, shared=shared_rows)
    return _lay_out(batch, rows, size, padding_id)


def layout_size(lengths: Sequence[int], max_length: int, *, shared_rows: bool = True) -> int:
    """R * S of what ``pack`` makes of sequences of these lengths."""
    rows, size = _rows(lengths, max_length, shared=shared_rows)
    return len(rows) * size


def _rows(lengths: Sequence[int], max_length: int, *, shared: bool) -> tuple[list[list[int]], int]:
    """Which sequences lie in each row, and how long the rows are."""
    if shared and len(lengths) > 1:
        return _share(lengths, max_length)
    return [[index] for index in range(len(lengths))], min(round_up(max(lengths)), max_length)


def _share(lengths: Sequence[int], max_length: int) -> tuple[list[list[int]], int]:
    """Rows of indices, and the length of a row: whatever computes least, a row for each sequence included."""
    total, longest = sum(lengths), max(lengths)
    shortest_row, longest_row = SHARED_ROWS
    if total <= min(longest_row, max_length):
        return [list(range(len(lengths)))], min(round_up(total), max_length)
    smallest = min(round_up(longest), max_length)
    rows, best = [[index] for index in range(len(lengths))], smallest
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    for size in _row_lengths(max(smallest, shortest_row), max(smallest, longest_row), max_length):
        if size * -(-total // size) >= best * len(rows):
            continue  # not even without a gap
        shared = _first_fit(lengths, order, size)
        if len(shared) * size < len(rows) * best:
            rows, best = shared, size
    return rows, best


def _row_lengths(shortest: int, longest: int, max_length: int) -> Iterator[int]:
    """What a shared row may be long, both ends included."""
    yield min(shortest, max_length)
    first = (shortest // ROW_STEP + 1) * ROW_STEP
    yield from (size for size in range(first, longest + 1, ROW_STEP) if size <= max_length)


def _first_fit(lengths: Sequence[int], order: Sequence[int], size: int) -> list[list[int]]:
    """First-fit: each into the first row that still has room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = lengths[index]
        for row, left in enumerate(room):
            if length <= left:
                rows[row].append(index)
                room[row] -= length
                break
        else:
            rows.append([index])
            room.append(size - length)
    return rows


def _lay_out(
    batch: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], size: int, padding_id: int | None
) -> PackedBatch:
    order = list(chain.from_iterable(rows))
    lengths = np.fromiter((len(batch[index]) for index in order), np.int32, len(order))
    tokens = int(lengths.sum())
    first_in_row = np.cumsum([0, *map(len, rows)][:-1])
    starts = np.cumsum(lengths, dtype=np.int32) - lengths  # among the tokens
    row_of = np.repeat(np.arange(len(rows), dtype=np.int32), list(map(len, rows)))
    row_starts = row_of * size - starts[first_in_row][row_of]  # from an index among the tokens to a place
    places = np.arange(tokens, dtype=np.int32) + np.repeat(row_starts, lengths).astype(np.int32)
    owner = np.repeat(np.arange(len(order), dtype=np.int32), lengths)
    ids, positions = np.zeros((2, len(rows), size), np.int32)
    owners = np.full((len(rows), size), NOBODY, np.int32)
    flat = np.fromiter(chain.from_iterable(batch[index] for index in order), np.int32, tokens)
    ids.reshape(-1)[places] = flat
    owners.reshape(-1)[places] = owner
    positions.reshape(-1)[places] = _positions(flat, starts, owner, padding_id)
    query_owners = np.ascontiguousarray(owners[:, :1]) if len(rows) == len(batch) else owners
    return PackedBatch(ids, owners, query_owners, positions, places, lengths, order)


def _positions(ids: Integers, starts: Integers, owner: Integers, padding_id: int | None) -> Integers:
    """[T]: see ``PackedBatch.positions``."""
    if padding_id is None:
        return np.arange(len(ids), dtype=np.int32) - starts[owner]
    is_counted = ids != padding_id
    counted = np.cumsum(is_counted, dtype=np.int32)
    before = (counted - is_counted)[starts][owner]
    return np.where(is_counted, counted - before, 0).astype(np.int32)


def round_up(length: int) -> int:
    """The next of few lengths: exact to 15, then in steps of about a sixteenth, at most 16 tokens.

    OpenVINO keeps generated code for every shape it has seen, up to a megabyte each.
    """
    step = min(16, 1 << max(0, length.bit_length() - 4))
    return -(-length // step) * step
