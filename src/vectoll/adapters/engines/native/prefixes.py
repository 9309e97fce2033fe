"""What a caller's texts begin with, computed once: an instruction before each query, examples before each question.

In a causal decoder a token's keys and values depend on nothing behind it, so those of equal beginnings are equal, and
are the same bits as if they were computed again. Blocks of tokens are chained as in vLLM's prefix caching
(arXiv:2309.06180), but keyed by their tokens, not by a hash. Each caller has chains of its own, so that nobody can tell
from the time a text takes whether somebody else sent it before.
"""

import ctypes
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from vectoll.adapters.engines.native.packing import Array, aligned
from vectoll.domain.identity import Caller
from vectoll.kernels.library import PREFIX_BLOCK, Prefix

MAX_SEEN = 32_768
"""Most blocks that are remembered after they came once, at about 200 bytes each."""
FIRST_SEEN = 16
"""Most new blocks that are remembered of one text, or as many as it has known ones: documents that begin like no other
leave little behind, and a beginning of 1,000 tokens is known from its seventh time on."""

_Key = tuple[Caller | int, bytes]
"""A block's tokens, behind those of another block's number or, as its first, of a caller."""


@dataclass(frozen=True, slots=True)
class _Block:
    number: int
    memory: Array


@dataclass(slots=True)
class _Beginning:
    """One sequence's."""

    known: list[_Block] = field(default_factory=list)
    kept: list[tuple[_Key, _Block]] = field(default_factory=list)
    """What the call fills, behind those that are known."""

    def described(self) -> tuple[Prefix, Array]:
        """For the kernels, and the memory that it points to."""
        blocks = [*self.known, *(block for _, block in self.kept)]
        pointers = np.array([block.memory.ctypes.data for block in blocks], np.uint64)
        known = len(self.known) * PREFIX_BLOCK
        kept = len(blocks) * PREFIX_BLOCK if self.kept else 0
        return Prefix(known, kept, pointers.ctypes.data), pointers


class BegunBatch:
    """What is left to compute of a batch."""

    def __init__(self, ids: Array, lengths: Array, beginnings: Sequence[_Beginning]) -> None:
        self.beginnings = beginnings
        known = np.array([len(beginning.known) * PREFIX_BLOCK for beginning in beginnings], np.int32)
        starts = np.cumsum(lengths) - lengths
        parts = [
            ids[start + k : start + length] for start, k, length in zip(starts, known, lengths, strict=True)
        ]
        self.ids = np.concatenate(parts)
        """[T]: of all sequences, what is not known."""
        self.lengths = lengths - known
        """[B]"""
        described = [beginning.described() for beginning in beginnings]
        self._memory = [memory for _, memory in described]
        self._prefixes = (Prefix * len(described))(*(prefix for prefix, _ in described))

    @property
    def pointer(self) -> int:
        """``struct prefix`` for each sequence; valid as long as this lives."""
        return ctypes.addressof(self._prefixes)


class Prefixes:
    """Thread-safe. A block is filled when its tokens come a second time; the least recently used is evicted."""

    def __init__(self, block_bytes: int, capacity_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._capacity = capacity_bytes // block_bytes
        self._filled: OrderedDict[_Key, _Block] = OrderedDict()
        self._seen: OrderedDict[_Key, int] = OrderedDict()
        self._numbers = count()
        self._lock = threading.Lock()

    def known(self, ids: Sequence[int], caller: Caller) -> int:
        """How many tokens of one sequence ``begin`` would find known. Does not wait for others."""
        parent: Caller | int = caller
        end = (len(ids) - 1) // PREFIX_BLOCK * PREFIX_BLOCK
        for at in range(0, end, PREFIX_BLOCK):
            block = self._filled.get((parent, array("i", ids[at : at + PREFIX_BLOCK]).tobytes()))
            if block is None:
                return at
            parent = block.number
        return end

    def begin(self, ids: Array, lengths: Array, callers: Sequence[Caller]) -> BegunBatch | None:
        """Of a batch [B] of sequences back to back in [T] ``ids`` (both int32) what is known, never a last token.

        None where nothing is known, and nothing is to be kept.
        """
        taken: set[_Key] = set()
        sequences = np.split(ids, np.cumsum(lengths)[:-1])
        with self._lock:
            found = [
                self._begin(part, caller, taken) for part, caller in zip(sequences, callers, strict=True)
            ]
        if any(beginning.known or beginning.kept for beginning in found):
            return BegunBatch(ids, lengths, found)
        return None

    def _begin(self, ids: Array, caller: Caller, taken: set[_Key]) -> _Beginning:
        """``taken`` are those that others of the batch fill."""
        beginning, keys = _Beginning(), []
        parent: Caller | int = caller
        step = PREFIX_BLOCK * ids.itemsize
        tokens = ids[: (len(ids) - 1) // PREFIX_BLOCK * PREFIX_BLOCK].tobytes()
        at, end, is_new = 0, min(len(tokens), self._capacity * step), False
        while at < end:
            key = parent, tokens[at : at + step]
            if block := self._filled.get(key):
                beginning.known.append(block)
                keys.append(key)
                parent = block.number
            elif key in taken:
                break
            elif (number := self._seen.get(key)) is not None:
                taken.add(key)
                beginning.kept.append((key, _Block(number, aligned(self._block_bytes))))
                parent = number
            else:
                if not is_new:
                    is_new, end = True, min(end, at + max(FIRST_SEEN * step, at))
                parent = self._see(key)
            at += step
        for key in reversed(keys):  # the first last: a block without those before it is of no use
            self._filled.move_to_end(key)
        return beginning

    def _see(self, key: _Key) -> int:
        number = self._seen[key] = next(self._numbers)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return number

    def keep(self, batch: BegunBatch) -> None:
        """Keep the blocks that this batch has filled, now that it is computed."""
        with self._lock:
            for beginning in batch.beginnings:
                for key, block in reversed(beginning.kept):
                    if self._seen.pop(key, None) == block.number:
                        self._filled[key] = block
            while len(self._filled) > self._capacity:
                self._filled.popitem(last=False)
