"""What writing a vector as JSON takes, by orjson and by the kernels; and, with --all, whether they write the same.

    python benchmarks/json_numbers.py           # a second
    python benchmarks/json_numbers.py --all     # every float32 from 0 on, through each of the kernels: four minutes

Prints a line for each: µs for 384 components of a unit vector, alone and 64 to a call, medians of rounds in turn.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import numpy as np
import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vectoll.http.serialisation import _with_numbers
from vectoll.kernels import numbers
from vectoll.kernels.library import F32, F32_AVX2, capabilities

DIMS, AT_ONCE, INFINITE = 384, 1 << 15, 0x7F800000


def writers() -> Mapping[str, numbers.Write]:
    """Everything that can write here."""
    found: dict[str, numbers.Write] = {"orjson": _with_numbers}
    for name, needs in (("avx2", F32_AVX2), ("avx512", F32)):
        if capabilities() & needs:
            with patch.object(numbers, "capabilities", lambda needs=needs: needs):
                found[name] = numbers.vector_writer.__wrapped__()  # type: ignore[assignment]
    return found


def microseconds(write: numbers.Write, count: int, rounds: int = 200) -> float:
    """For each of ``count`` vectors in a call."""
    rows = np.random.default_rng(1).standard_normal((count, DIMS)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vectors = [row.data for row in rows]
    began = time.perf_counter()
    for _ in range(rounds):
        write(vectors, DIMS, 0)
    return 1e6 * (time.perf_counter() - began) / rounds / count


def differences(write: numbers.Write) -> int:
    """How many float32 from 0 to infinity are not written as orjson does. Negative ones differ by their sign alone."""
    found = 0
    for first in range(0, INFINITE + 1, AT_ONCE):
        floats = np.arange(first, first + AT_ONCE, dtype=np.uint32).view(np.float32)
        text = write([floats.data], AT_ONCE, 0)
        theirs = orjson.dumps(floats, option=orjson.OPT_SERIALIZE_NUMPY)
        if not text.endswith(theirs + b"}"):
            ours = text[text.index(b"[") + 1 : -2].split(b",")
            found += sum(a != b for a, b in zip(ours, theirs[1:-1].split(b","), strict=True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="compare every float32")
    options = parser.parse_args()
    found = writers()
    for count in (1, 64):
        rounds = [[microseconds(write, count) for write in found.values()] for _ in range(7)]
        taken = map(statistics.median, zip(*rounds, strict=True))
        print(
            f"{count:3} to a call:",
            ", ".join(f"{name} {us:.1f} µs" for name, us in zip(found, taken, strict=True)),
        )
    if options.all:
        for name, write in found.items():
            if name != "orjson":
                print(f"{name}: {differences(write)} of 2^31 numbers differ from orjson's")


if __name__ == "__main__":
    main()
