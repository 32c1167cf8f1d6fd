"""A graph that is not the layout's, or that takes weights from where nobody looked, is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from service.bundle.layout import GRAPH_INPUTS
from service.bundle.reader import read_bundle
from tests.pocket import WEIGHTS_NAME, reseal, write_pocket_bundle
from tests.service.bundle.tampering import edit_model, refuse


@pytest.mark.parametrize("content", [b"not an onnx model", b"\x08\x0a\x3a\xff", b"{}" * 50])
def test_a_broken_graph(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    reseal(folder)
    refuse(folder, "model.onnx", "is not an ONNX model: ")


def test_an_empty_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    reseal(folder)
    refuse(folder, "model.onnx", r"has the inputs \[\], but layout 2 has \['input_ids', ")


def test_names_that_are_no_text(folder: Path) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content.replace(b"position_ids", b"positio\xff_ids"))
    reseal(folder)
    refuse(folder, "model.onnx", "has the inputs .* but layout 2 has")


@pytest.mark.parametrize("name", GRAPH_INPUTS)
def test_a_graph_without_one_of_the_inputs(folder: Path, name: str) -> None:
    def drop(model: ModelProto) -> None:
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))

    edit_model(folder, drop)
    refuse(folder, "model.onnx", "has the inputs .* but layout 2 has")


def test_a_graph_with_one_more_input(folder: Path) -> None:
    extra = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["tokens"])
    edit_model(folder, lambda model: model.graph.input.append(extra))
    refuse(folder, "model.onnx", r"has the inputs \['attention_mask', ")


def test_a_graph_with_an_input_twice(folder: Path) -> None:
    edit_model(folder, lambda model: model.graph.input.append(model.graph.input[0]))
    refuse(folder, "model.onnx", r"has the inputs \['input_ids', 'input_ids', ")


@pytest.mark.parametrize("name", GRAPH_INPUTS)
@pytest.mark.parametrize(("kind", "spelled"), [(TensorProto.INT32, "INT32"), (0, "UNDEFINED"), (99, "of type 99")])
def test_a_graph_with_an_input_of_another_type(folder: Path, name: str, kind: int, spelled: str) -> None:
    def change(model: ModelProto) -> None:
        next(value for value in model.graph.input if value.name == name).type.tensor_type.elem_type = kind

    edit_model(folder, change)
    refuse(folder, "model.onnx", f"{name} is {spelled}, not {'BOOL' if name.startswith('key_valid') else 'INT64'}")


def free(value: onnx.ValueInfoProto) -> list[str | int]:
    return [f"d{place}" for place, _ in enumerate(value.type.tensor_type.shape.dim)]


@pytest.mark.parametrize("name", GRAPH_INPUTS)
@pytest.mark.parametrize(
    "change", [lambda dims: [*dims, "more"], lambda dims: dims[1:], lambda dims: [*dims[:-1], 7], lambda _: []],
    ids=["higher", "lower", "fixed", "none"],
)  # fmt: skip
def test_a_graph_with_an_input_of_another_shape(folder: Path, name: str, change: Callable[..., Any]) -> None:
    def edit(model: ModelProto) -> None:
        value = next(value for value in model.graph.input if value.name == name)
        kind = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(name, kind, change(free(value))))

    edit_model(folder, edit)
    refuse(folder, "model.onnx", rf"{name} has the shape \[.*\], not \[0(, 0)?\] \(0 for any size\)")


def test_a_graph_with_an_input_that_is_no_tensor(folder: Path) -> None:
    edit_model(folder, lambda model: model.graph.input[0].type.sequence_type.SetInParent())
    refuse(folder, "model.onnx", "input_ids is UNDEFINED, not INT64")


def test_weights_may_be_listed_among_the_inputs(folder: Path) -> None:
    weights = helper.make_tensor_value_info("weights", TensorProto.FLOAT, [None])
    edit_model(folder, lambda model: model.graph.input.append(weights))
    assert read_bundle(folder).manifest.name == "pocket"


def test_an_input_that_is_fixed_by_a_weight_is_no_input(folder: Path) -> None:
    fixed = numpy_helper.from_array(np.zeros(3, dtype=np.int64), "position_ids")
    edit_model(folder, lambda model: model.graph.initializer.append(fixed))
    refuse(folder, "model.onnx", "has the inputs .* but layout 2 has")


def test_a_graph_with_other_outputs(folder: Path) -> None:
    extra = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["scores", 1])
    edit_model(folder, lambda model: model.graph.output.append(extra))
    refuse(folder, "model.onnx", r"has the outputs \['rewards', 'logits'\], not \['rewards'\]")
    edit_model(folder, lambda model: model.graph.output.pop(0))
    refuse(folder, "model.onnx", r"has the outputs \['logits'\], not \['rewards'\]")


@pytest.mark.parametrize(
    ("kind", "shape", "reason"),
    [
        (TensorProto.FLOAT16, ["scores", 1], "rewards is FLOAT16, not FLOAT"),
        (TensorProto.DOUBLE, ["scores", 1], "rewards is DOUBLE, not FLOAT"),
        (TensorProto.FLOAT, ["scores"], r"rewards has the shape \[0\], not \(scores, 1 heads\)"),
        (TensorProto.FLOAT, [3, 1], r"rewards has the shape \[3, 1\], not \(scores, 1 heads\)"),
        (TensorProto.FLOAT, ["scores", 2], r"rewards has the shape \[0, 2\], not \(scores, 1 heads\)"),
    ],
)
def test_a_graph_with_another_output(folder: Path, kind: int, shape: list[str | int], reason: str) -> None:
    other = helper.make_tensor_value_info("rewards", kind, shape)
    edit_model(folder, lambda model: model.graph.output[0].CopyFrom(other))
    refuse(folder, "model.onnx", reason)


# -- weights outside the graph -------------------------------------------------


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse(location: str) -> SparseTensorProto:
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    return SparseTensorProto(values=outside(location), indices=indices, dims=[1])


def constant(**attribute: Any) -> onnx.NodeProto:
    node = helper.make_node("Constant", [], ["constant"])
    node.attribute.append(AttributeProto(name="value", **attribute))
    return node


def subgraph(location: str) -> onnx.GraphProto:
    """A graph in a graph that takes weights from elsewhere."""
    inner = onnx.GraphProto(name="inner", initializer=[outside(location)])
    node = helper.make_node("If", ["condition"], ["out"])
    node.attribute.append(AttributeProto(name="then_branch", type=AttributeProto.GRAPH, g=inner))
    return onnx.GraphProto(name="outer", node=[node])


def function(**fields: Any) -> onnx.FunctionProto:
    return onnx.FunctionProto(name="f", domain="local", **fields)


PLACES: dict[str, Callable[[ModelProto, str], object]] = {
    "initializer": lambda model, to: model.graph.initializer.append(outside(to)),
    "sparse initializer": lambda model, to: model.graph.sparse_initializer.append(sparse(to)),
    "attribute": lambda model, to: model.graph.node.append(constant(t=outside(to))),
    "list attribute": lambda model, to: model.graph.node.append(constant(tensors=[outside(to)])),
    "sparse attribute": lambda model, to: model.graph.node.append(constant(sparse_tensor=sparse(to))),
    "sparse list attribute": lambda model, to: model.graph.node.append(constant(sparse_tensors=[sparse(to)])),
    "subgraph": lambda model, to: model.graph.node.append(constant(g=subgraph(to))),
    "list of subgraphs": lambda model, to: model.graph.node.append(constant(graphs=[subgraph(to)])),
    "function": lambda model, to: model.functions.append(function(node=[constant(t=outside(to))])),
    "default of a function": lambda model, to: model.functions.append(
        function(attribute_proto=[AttributeProto(name="value", t=outside(to))])
    ),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "unlisted.data", "report/../model.onnx"])
def test_weights_that_the_manifest_does_not_list(folder: Path, place: str, location: str) -> None:
    edit_model(folder, lambda model: PLACES[place](model, location))
    refuse(folder, "model.onnx", f"takes weights from {location!r}, which bundle.json does not list")


@pytest.mark.parametrize("place", PLACES)
def test_weights_that_the_manifest_lists(folder: Path, place: str) -> None:
    (folder / "listed.data").write_bytes(b"\0" * 4)
    edit_model(folder, lambda model: PLACES[place](model, "listed.data"))
    assert "listed.data" in read_bundle(folder).manifest.files


def test_missing_or_altered_weights(tmp_path: Path) -> None:
    folder = write_pocket_bundle(tmp_path / "b", external_data=True).folder
    (folder / WEIGHTS_NAME).write_bytes(b"\0" * (folder / WEIGHTS_NAME).stat().st_size)
    refuse(folder, WEIGHTS_NAME, "does not have the SHA-256")
    (folder / WEIGHTS_NAME).unlink()
    refuse(folder, WEIGHTS_NAME, "is listed in bundle.json and missing")


# -- operators -----------------------------------------------------------------


def reads_a_file() -> onnx.NodeProto:
    """What an execution provider takes for a compiled graph, from a path that the graph names."""
    return helper.make_node(
        "EPContext", [], ["out"], domain="com.microsoft", embed_mode=0, ep_cache_context="../outside/evil.blob",
        main_context=1, source="OpenVINOExecutionProvider",
    )  # fmt: skip


def within(node: onnx.NodeProto) -> onnx.GraphProto:
    return onnx.GraphProto(name="outer", node=[constant(g=onnx.GraphProto(name="inner", node=[node]))])


NODE_PLACES: dict[str, Callable[[ModelProto, onnx.NodeProto], object]] = {
    "graph": lambda model, node: model.graph.node.append(node),
    "subgraph": lambda model, node: model.graph.node.append(constant(g=within(node))),
    "list of subgraphs": lambda model, node: model.graph.node.append(constant(graphs=[within(node)])),
    "function": lambda model, node: model.functions.append(function(node=[node])),
    "default of a function": lambda model, node: model.functions.append(
        function(attribute_proto=[AttributeProto(name="value", g=within(node))])
    ),
}


@pytest.mark.parametrize("place", NODE_PLACES)
def test_an_operator_that_reads_files(folder: Path, place: str) -> None:
    edit_model(folder, lambda model: NODE_PLACES[place](model, reads_a_file()))
    refuse(folder, "model.onnx", "has the operator com.microsoft:EPContext, and only ONNX's own are served")


@pytest.mark.parametrize("domain", ["com.example", "ai.onnx.ml", "local", "COM.MICROSOFT", " "])
def test_an_operator_of_another_domain(folder: Path, domain: str) -> None:
    edit_model(folder, lambda model: model.graph.node.append(helper.make_node("Foo", [], ["out"], domain=domain)))
    refuse(folder, "model.onnx", f"has the operator {domain}:Foo, and only ONNX's own are served")


@pytest.mark.parametrize("place", NODE_PLACES)
@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_the_standard_operators(folder: Path, place: str, domain: str) -> None:
    node = helper.make_node("Identity", ["rewards"], ["again"], domain=domain)
    edit_model(folder, lambda model: NODE_PLACES[place](model, node))
    assert read_bundle(folder).manifest.name == "pocket"
