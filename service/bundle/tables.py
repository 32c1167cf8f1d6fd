"""How many rows a graph's tables of embeddings have: not every runtime refuses an index beyond them."""

from typing import Final

from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

_MOVES: Final = {"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Gather", "Transpose", "Expand", "Flatten"}
"""Operators that hand indices on as they are, all or some."""


def allowed_below(graph: GraphProto, name: str) -> int | None:
    """The bound below which the values of an input lie that a table is looked up with.

    Args:
        graph: of a bundle.
        name: of an input of indices.

    Returns:
        The rows of the smallest such table, less what is added to the index on its way (RoBERTa counts positions on
        from 2); None where the input looks up nothing.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    weights |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    offsets = {name: 0}
    bounds = []
    for node in graph.node:  # in the order in which they run
        if node.op_type == "Gather" and node.input[1] in offsets and node.input[0] in weights:
            table = weights[node.input[0]]
            bounds.append(table.dims[_axis(node)] - offsets[node.input[1]])
        elif node.op_type in _MOVES and node.input[0] in offsets:
            offsets[node.output[0]] = offsets[node.input[0]]
        elif node.op_type == "Add":
            for index, other in (node.input, reversed(node.input)):
                if index in offsets and (added := _scalar(weights.get(other))) is not None:
                    offsets[node.output[0]] = offsets[index] + added
    return min(bounds, default=None)


def _axis(node: NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)


def _scalar(tensor: TensorProto | None) -> int | None:
    """Its value, if it is one number within the file."""
    if tensor is None or tensor.external_data or any(size != 1 for size in tensor.dims):
        return None
    return int(numpy_helper.to_array(tensor).ravel()[0])
