"""The matrix-product peak of this machine: what no engine on it can exceed.

    python benchmarks/peak.py            # a few seconds; --json for one JSON object

Large square products through OpenVINO, on every core this process may use, best of several sizes and repetitions.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vectoll.adapters.engines.openvino.runtime import ops, ov

SIZES = (1024, 2048)


def square_product(size: int, precision: str, threads: int) -> Callable[[], float]:
    """A product of two ``size`` × ``size`` matrices, ready to run. Each call returns its rate in GFLOP/s."""
    rng = np.random.default_rng(0)
    left = rng.standard_normal((size, size), np.float32)
    parameter = ops.parameter([size, size], np.float32, "left")
    product = ops.matmul(parameter, ops.constant(left), False, True)
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    compiled = ov.Core().compile_model(ov.Model([ops.result(product)], [parameter], "peak"), "CPU", options)
    request: Any = compiled.create_infer_request()

    def run() -> float:
        started = time.perf_counter()
        request.infer([left], share_inputs=True, share_outputs=True)
        return 2 * size**3 / (time.perf_counter() - started) / 1e9

    run()
    return run


class Peak:
    """Measures again whenever asked, so that a benchmark can compare within one moment."""

    def __init__(self, precision: str, threads: int) -> None:
        self._products = [square_product(size, precision, threads) for size in SIZES]

    def gflops(self, repetitions: int = 8) -> float:
        """The best rate seen now, in GFLOP/s."""
        return max(product() for product in self._products for _ in range(repetitions))


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def best_precision() -> str:
    """``bf16`` where the CPU has it, else ``f32``."""
    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cores = available_cores()
    precisions = ["f32", "bf16"] if best_precision() == "bf16" else ["f32"]
    peaks = {precision: round(Peak(precision, cores).gflops(20)) for precision in precisions}
    if arguments.json:
        print(json.dumps({"cores": cores, "gflops": peaks}))
        return
    for precision, gflops in peaks.items():
        print(f"{precision:>5}: {gflops:6,} GFLOP/s on {cores} cores")


if __name__ == "__main__":
    main()
