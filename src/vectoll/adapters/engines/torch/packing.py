"""Many sequences end to end in one buffer: no padding, so no work is spent on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from vectoll.adapters.checkpoints import Architecture
from vectoll.domain.catalog import Pooling


@dataclass(frozen=True, slots=True)
class Segments:
    """Where sequences lie in a packed buffer: ``starts`` is int32 ``[n + 1]``, ends included."""

    starts: torch.Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One batch on the device. ``T`` tokens of ``n`` sequences; all int32."""

    ids: torch.Tensor
    """``[T]``"""
    positions: torch.Tensor
    """``[T]``, restarting with each sequence."""
    segments: Segments
    rows: torch.Tensor | None
    """``[n]``: the one token of each sequence that becomes the vector; None when all of them do (mean)."""
    row_segments: Segments
    """``rows`` as a packed buffer of one-token sequences."""


class Packer:
    """Checks token ids on the host and packs them for one architecture.

    A bad id must never reach an accelerator: there it is an assertion that kills every model of the process.
    """

    def __init__(
        self, architecture: Architecture, vocab: int, pooling: Pooling, device: torch.device
    ) -> None:
        self._padding_id = architecture.padding_id
        self._max_tokens = architecture.positions
        self._vocab = vocab
        self._pooling = pooling
        self._device = device

    def pack(self, batch: Sequence[Sequence[int]]) -> torch.Tensor:
        """``[ids | positions | starts | rows]``, int32 on the host, page-locked where a device will read it.

        Raises ValueError for an empty or over-long sequence and for an id outside the vocabulary.
        """
        lengths = np.fromiter(map(len, batch), dtype=np.int32, count=len(batch))
        if lengths.min() < 1:
            raise ValueError("a sequence has no tokens")
        if lengths.max() > self._max_tokens:
            raise ValueError(f"a sequence is longer than the model's {self._max_tokens} positions")
        starts = np.zeros(len(batch) + 1, dtype=np.int32)
        np.cumsum(lengths, out=starts[1:])
        ids = np.fromiter(chain.from_iterable(batch), dtype=np.int32, count=int(starts[-1]))
        if ids.min() < 0 or ids.max() >= self._vocab:
            raise ValueError(f"a token id is outside 0..{self._vocab - 1}")
        rows = starts[:-1] if self._pooling is Pooling.CLS else starts[1:] - 1
        staged = torch.from_numpy(np.concatenate([ids, self._positions(ids, starts, lengths), starts, rows]))
        return staged.pin_memory() if self._device.type == "cuda" else staged

    def _positions(
        self,
        ids: "np.ndarray[tuple[int], np.dtype[np.int32]]",
        starts: "np.ndarray[tuple[int], np.dtype[np.int32]]",
        lengths: "np.ndarray[tuple[int], np.dtype[np.int32]]",
    ) -> "np.ndarray[tuple[int], np.dtype[np.int32]]":
        if self._padding_id is None:
            return np.arange(len(ids), dtype=np.int32) - np.repeat(starts[:-1], lengths)
        # XLM-RoBERTa counts from the row after the padding token's, and does not count a padding token in a text.
        is_counted = (ids != self._padding_id).astype(np.int32)
        counted = np.cumsum(is_counted, dtype=np.int32)
        before = np.concatenate([np.zeros(1, np.int32), counted])[starts[:-1]]
        positions: np.ndarray[tuple[int], np.dtype[np.int32]]
        positions = (counted - np.repeat(before, lengths)) * is_counted + np.int32(self._padding_id)
        return positions

    def upload(self, staged: torch.Tensor, sequences: int, longest: int) -> PackedBatch:
        """Copy what ``pack`` staged to the device, in order with the current stream, and name its parts."""
        tokens = (len(staged) - 2 * sequences - 1) // 2
        ids, positions, starts, rows = staged.to(self._device, non_blocking=True).split(
            [tokens, tokens, sequences + 1, sequences]
        )
        one_each = Segments(torch.arange(sequences + 1, dtype=torch.int32, device=self._device), 1)
        is_mean = self._pooling is Pooling.MEAN
        return PackedBatch(ids, positions, Segments(starts, longest), None if is_mean else rows, one_each)
