"""Graphs that a repository publishes itself, as OpenVINO IR or ONNX, fitted with our inputs, pooling and norm."""

from pathlib import Path
from typing import Any

import numpy as np

from vectoll.adapters.engines.openvino.layers import Inputs, Node, model, pool
from vectoll.adapters.engines.openvino.packing import NOBODY
from vectoll.adapters.engines.openvino.runtime import ops
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

_STATES = ("last_hidden_state", "token_embeddings")


def read_graph(core: Any, path: Path, pooling: Pooling, dims: int) -> Any:
    """The graph in ``path`` as a model of our inputs, of one sequence a row; weights stay where they are on disk.

    Raises ConfigurationError for a file that cannot be read, or whose inputs or outputs are not an encoder's
    of ``dims``.
    """
    try:
        graph = core.read_model(path)
    except RuntimeError as error:
        raise ConfigurationError(f"cannot read the graph {path}: {str(error).splitlines()[-1]}") from None
    inputs = Inputs.create()
    for parameter in graph.get_parameters():
        source = ops.convert(_source(path, _names(parameter.output(0)), inputs), parameter.get_element_type())
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(source.output(0))
    states = _states(path, graph)
    size = states.get_output_partial_shape(0)[2].get_length()
    if size != dims:
        raise ConfigurationError(f"the graph {path} gives vectors of {size}, where config.json says {dims}")
    return model(inputs, pool(states, inputs, pooling))


def _source(path: Path, names: set[str], inputs: Inputs) -> Node:
    """What feeds an input of the published graph."""
    if "input_ids" in names:
        return inputs.ids
    if "attention_mask" in names:
        return ops.not_equal(inputs.owners, ops.constant(np.int32(NOBODY)))
    if "token_type_ids" in names:
        return ops.multiply(inputs.ids, ops.constant(np.int32(0)))
    raise ConfigurationError(
        f"the graph {path} has an input that nothing is known for: {', '.join(sorted(names))}"
    )


def _states(path: Path, graph: Any) -> Node:
    """The output of shape [R, S, H] before any pooling."""
    by_name = {name: output for output in graph.outputs for name in output.get_names()}
    for name in _STATES:
        if name in by_name:
            return ops.convert(by_name[name].get_node().input_value(0), "f32")
    raise ConfigurationError(f"the graph {path} has none of the outputs {', '.join(_STATES)}")


def _names(output: Any) -> set[str]:
    return set(output.get_names())
