"""Eight-bit weights: which constants change, and by how little."""

from typing import Any

import numpy as np
import pytest

from vectoll.adapters.engines.openvino.engine import INPUTS_PER_SCALE
from vectoll.adapters.engines.openvino.int8 import compress_weights
from vectoll.adapters.engines.openvino.runtime import ops, ov

Array = np.ndarray[Any, Any]


def graph_of(matrix: Array, *, transposed: bool, widened: bool = False) -> Any:
    """x @ matrix (or its transpose) as a model of x."""
    rows, columns = matrix.shape
    x = ops.parameter([-1, columns if transposed else rows], np.float32, "x")
    constant = ops.constant(matrix.astype(np.float16 if widened else np.float32))
    source = ops.convert(constant, "f32") if widened else constant
    return ov.Model([ops.result(ops.matmul(x, source, False, transposed))], [x], "product")


def run(graph: Any, x: Array) -> Array:
    compiled = ov.Core().compile_model(
        graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    )
    return np.asarray(compiled([x])[0])


def integers(graph: Any) -> list[Array]:
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    return [constant.get_data() for constant in constants if constant.get_element_type() == ov.Type.i8]


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("widened", [True, False])
def test_each_output_has_its_own_scale(transposed: bool, widened: bool) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((64, 32)).astype(np.float32)
    outputs = matrix if transposed else matrix.T  # one row for each output, of magnitudes far apart
    outputs *= np.logspace(-3, 1, len(outputs), dtype=np.float32)[:, None]
    outputs[3] = 0
    graph = graph_of(matrix, transposed=transposed, widened=widened)
    mapped = compress_weights(graph)
    assert mapped is not None
    assert len(integers(graph)) == 1
    columns = matrix.shape[1] if transposed else matrix.shape[0]
    actual = run(graph, np.eye(columns, dtype=np.float32)).T  # the matrix itself, one row for each output
    largest = np.abs(outputs).max(axis=1, keepdims=True)
    assert (np.abs(actual - outputs) <= largest * 0.0045).all()  # half a step of 1/127, and half precision


@pytest.mark.parametrize("inputs", [30, 31, 33, 64, 65])
def test_products_of_any_number_of_inputs_are_right_in_bf16(inputs: int) -> None:
    rng = np.random.default_rng(2)
    matrix, x = (rng.standard_normal((rows, inputs)).astype(np.float32) for rows in (64, 16))
    graph, exact = graph_of(matrix, transposed=True), x @ matrix.T
    _ = compress_weights(graph)
    options = {"INFERENCE_PRECISION_HINT": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(INPUTS_PER_SCALE)}
    error = np.asarray(ov.Core().compile_model(graph, "CPU", options)([x])[0]) - exact
    assert np.linalg.norm(error) < 0.03 * np.linalg.norm(exact)


def test_a_graph_without_constant_matrices_is_left_alone() -> None:
    x, y = (ops.parameter([4, 4], np.float32, name) for name in "xy")
    graph = ov.Model([ops.result(ops.matmul(x, y, False, False))], [x, y], "product")
    assert compress_weights(graph) is None
