"""Indices that a graph's tables of embeddings have rows for."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.tables import allowed_below
from tests.service.bundle.tampering import edit_model, refuse


def graph(nodes, rows=10, added=2):
    weights = [
        numpy_helper.from_array(np.zeros((rows, 4), dtype=np.float32), "table"),
        numpy_helper.from_array(np.array([added]), "added"),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in ("ids", "other")]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 4])
    return helper.make_graph(nodes, "g", inputs, [output], weights)


def node(kind, *names, **attributes):
    return helper.make_node(kind, list(names[:-1]), [names[-1]], **attributes)


@pytest.mark.parametrize(
    ("nodes", "bound"),
    [
        ([node("Gather", "table", "ids", "out")], 10),
        (
            [node("Unsqueeze", "ids", "axes", "x"), node("Cast", "x", "y", to=7), node("Gather", "table", "y", "out")],
            10,
        ),
        ([node("Add", "ids", "added", "x"), node("Gather", "table", "x", "out")], 8),
        ([node("Add", "added", "ids", "x"), node("Gather", "table", "x", "out")], 8),
        ([node("Gather", "ids", "other", "x"), node("Gather", "table", "x", "out")], 10),
        ([node("Gather", "table", "other", "out")], None),
        ([node("Gather", "other", "ids", "out")], None),
        ([node("Gather", "table", "ids", "out", axis=-2)], 10),
        ([node("Gather", "table", "ids", "out", axis=1)], 4),
        ([node("Expand", "ids", "shape", "x"), node("Gather", "table", "x", "out")], 10),
        (
            [
                helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(np.zeros((7, 2)), "t")),
                node("Gather", "t", "ids", "out"),
            ],
            7,
        ),
        ([node("Mul", "ids", "added", "x"), node("Gather", "table", "x", "out")], None),
        ([node("Add", "ids", "other", "x"), node("Gather", "table", "x", "out")], None),
    ],
)
def test_the_bound_of_an_index(nodes, bound):
    assert allowed_below(graph(nodes), "ids") == bound


def shorten(name, rows):
    """Cut the table of embeddings that `name` is looked up in."""

    def edit(model):
        reached = {name}
        for one in model.graph.node:
            if one.op_type == "Gather" and one.input[1] in reached and one.input[0] not in reached:
                table = next(tensor for tensor in model.graph.initializer if tensor.name == one.input[0])
                table.dims[0] = rows
                return
            if reached & set(one.input):
                reached.update(one.output)
        raise AssertionError(f"nothing is looked up by {name}")

    return edit


def test_a_tokenizer_with_more_ids_than_the_model(folder):
    edit_model(folder, shorten("input_ids", 5))
    refuse(folder, "model.onnx", "has embeddings for 5 values of input_ids, but the tokenizer has [0-9]+ token ids")


def test_a_graph_that_looks_nothing_up(folder):
    def edit(model):
        for one in model.graph.node:
            one.input[:] = ["position_ids" if name == "input_ids" else name for name in one.input]

    edit_model(folder, edit)
    refuse(folder, "model.onnx", "looks up no table of embeddings by input_ids")


def test_a_node_without_its_inputs(folder):
    def edit(model):
        del next(one for one in model.graph.node if one.op_type == "Gather").input[1:]

    edit_model(folder, edit)
    refuse(folder, "model.onnx", "has a node without the inputs that its operator takes")
