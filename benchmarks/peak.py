"""The matrix-product peak of this machine: what no engine on it can exceed.

    python benchmarks/peak.py            # a few seconds; --json for one JSON object

Large products on every core that this process may use, best of several sizes and repetitions: square ones through
OpenVINO, and what suits a core's caches through the kernels of our own, whichever is faster.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from vectoll.adapters.checkpoints import DType, TensorView
from vectoll.adapters.engines.cores import available_cores
from vectoll.adapters.engines.native.engine import products_of
from vectoll.adapters.engines.native.packing import aligned_copy, pack
from vectoll.adapters.engines.openvino.runtime import ops, ov
from vectoll.domain.catalog import Precision
from vectoll.kernels.library import BF16, F32, F32_AVX2, Products, capabilities, load_library

SIZES = (1024, 2048)
OWN_SIZES = ((480, 384), (480, 768))
"""Rows and depth; as many columns as rows. Several times over, so that a call takes milliseconds."""
OWN_TIMES = 20


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


def own_product(rows: int, depth: int, products: Products, threads: int) -> Callable[[], float]:
    """The same product on every thread through our own kernels. Each call returns the rate of all in GFLOP/s."""
    library = load_library()
    assert library
    product = getattr(library, f"vectoll_product_{products}")
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((rows, depth), np.float32) for _ in range(2))
    bias = np.zeros(rows, np.float32)
    is_bf16 = products == "bf16"
    weights = pack([TensorView(DType.F32, right.shape, right.data.cast("B"))], products)
    rounded = (left.view(np.uint32) >> 16).astype(np.uint16) if is_bf16 else left
    inputs = [aligned_copy(rounded) for _ in range(threads)]
    outputs = [np.empty((rows, rows), np.float32) for _ in range(threads)]
    pool = ThreadPoolExecutor(threads)

    def work(thread: int) -> None:
        pointers = [array.ctypes.data for array in (inputs[thread], weights, bias, outputs[thread])]
        for _ in range(OWN_TIMES):
            product(rows, rows, depth, *pointers)

    def run() -> float:
        started = time.perf_counter()
        list(pool.map(work, range(threads)))
        return 2 * rows * rows * depth * OWN_TIMES * threads / (time.perf_counter() - started) / 1e9

    run()
    return run


class Peak:
    """Measures again whenever asked, so that a benchmark can compare within one moment."""

    def __init__(self, precision: str, threads: int) -> None:
        self._products = [square_product(size, precision, threads) for size in SIZES]
        if capabilities() & (BF16 if precision == "bf16" else F32 | F32_AVX2):
            products = products_of(Precision(precision))
            self._products += [own_product(*size, products, threads) for size in OWN_SIZES]

    def gflops(self, repetitions: int = 8) -> float:
        """The best rate seen now, in GFLOP/s."""
        return max(product() for product in self._products for _ in range(repetitions))


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
