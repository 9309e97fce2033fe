"""The packaged vocabularies."""

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

SINGLE_BYTES = 256

_CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_R50K_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

VOCABULARIES = {"cl100k_base": _CL100K_PATTERN, "r50k_base": _R50K_PATTERN}
"""The vocabularies by name, each with the pattern that splits text before its bytes are merged."""

_SPECIAL_IDS = {
    "cl100k_base": frozenset({100257, 100258, 100259, 100260, 100276}),
    "r50k_base": frozenset({50256}),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One byte-pair vocabulary."""

    name: str
    tokens: tuple[bytes, ...]
    """The bytes of each id; the first 256 are the single bytes."""
    merges: tuple[tuple[int, int], ...]
    """``merges[i]`` are the two ids that make id ``256 + i``, in the order in which they are merged."""
    special_ids: frozenset[int]
    """Ids that stand for no text."""


@lru_cache
def load_vocabulary(name: str) -> Vocabulary:
    """One of ``VOCABULARIES``, read once: about 30 ms and 20 MB for cl100k_base. Raises KeyError for any other."""
    special_ids = _SPECIAL_IDS[name]
    data = zlib.decompress(resources.files(__package__).joinpath(f"{name}.bpe").read_bytes())
    planes = data[SINGLE_BYTES:]
    columns = bytearray(len(planes))
    for i in range(4):
        columns[i::4] = planes[i * len(planes) // 4 : (i + 1) * len(planes) // 4]
    count = len(columns) // 8
    ids = struct.unpack(f"<{2 * count}I", columns)
    merges = tuple(zip(ids[:count], ids[count:], strict=True))
    tokens = [data[i : i + 1] for i in range(SINGLE_BYTES)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return Vocabulary(name, tuple(tokens), merges, special_ids)
