"""Weights in 8 bits: half the memory of bfloat16, for a loss of accuracy that ``vectoll models check`` measures."""

import mmap
import tempfile
from typing import Any

import numpy as np

from vectoll.adapters.engines.openvino.runtime import ops

_LARGEST = 127


def compress_weights(graph: Any) -> mmap.mmap | None:
    """Replace every constant matrix of a product by signed 8-bit integers and one scale per output, in place.

    Embedding tables stay as they are: they are looked up, not multiplied. So do matrices of an odd number of inputs,
    which OpenVINO multiplies wrongly in bfloat16 (2026.4). The integers lie in a temporary file without a name, so that
    the system can take their memory back once the engine has packed its own copy; the map of it must live as long as
    the graph. None when there was nothing to replace.
    """
    found = [product for product in graph.get_ordered_ops() if _matrix(product) is not None]
    scales, shapes = [], []
    with tempfile.TemporaryFile(prefix="vectoll-int8-") as file:
        for product in found:
            integers, scale = _round(_matrix(product), _input_axis(product))
            file.write(integers.data)
            scales.append(scale)
            shapes.append(integers.shape)
        file.flush()
        if not found:
            return None
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    offset = 0
    for product, scale, shape in zip(found, scales, shapes, strict=True):
        size = shape[0] * shape[1]
        view = np.frombuffer(mapped, np.int8, size, offset).reshape(shape)
        offset += size
        widened = ops.convert(ops.constant(view, shared_memory=True), "f32")
        product.input(1).replace_source_output(ops.multiply(widened, ops.constant(scale)).output(0))
    return mapped


def _matrix(product: Any) -> Any | None:
    """The constant [rows, columns] that a node multiplies by, seen through a widening; None for another node."""
    if product.get_type_name() != "MatMul":
        return None
    source = product.input_value(1).get_node()
    if source.get_type_name() == "Convert":
        source = source.input_value(0).get_node()
    if source.get_type_name() != "Constant" or len(source.get_output_shape(0)) != 2:
        return None
    return None if source.get_output_shape(0)[_input_axis(product)] % 2 else source


def _input_axis(product: Any) -> int:
    return 1 if product.get_attributes()["transpose_b"] else 0


def _round(constant: Any, axis: int) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]":
    """Integers in ±127 and the float32 scales, one for each slice along ``axis``, that bring them back."""
    values = constant.get_data(dtype=np.float32)
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True) / _LARGEST, np.finfo(np.float32).tiny)
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)
