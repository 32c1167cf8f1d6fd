"""Whether a graph is one of the layout, and takes nothing from outside its bundle."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, SparseTensorProto, TensorProto, ValueInfoProto

from service.bundle.layout import FLAT_INPUTS, GRAPH_INPUTS, GRAPH_OUTPUT
from service.bundle.manifest import Manifest
from service.bundle.tables import allowed_below

_DOMAINS = ("", "ai.onnx")
"""Of ONNX's own operators, which compute and no more. Others may read files: `com.microsoft:EPContext` does."""


class GraphError(ValueError):
    """A graph that must not be loaded. The message says why."""


def check_graph(path: Path, manifest: Manifest, vocabulary: int) -> None:
    """Refuse a graph that the layout does not fit, that takes weights from elsewhere, or that could read files.

    Args:
        path: of the graph.
        manifest: of its bundle.
        vocabulary: the bound below which the tokenizer's ids lie.

    Raises:
        GraphError: with the reason.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise GraphError(f"is not an ONNX model: {error}") from error
    # Graphs of old exporters list their weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    names = sorted(str(value.name) for value in inputs)  # what is no UTF-8 comes as bytes
    if names != sorted(GRAPH_INPUTS):
        raise GraphError(f"has the inputs {names}, but layout {manifest.layout_version} has {sorted(GRAPH_INPUTS)}")
    outputs = [value.name for value in model.graph.output]
    if outputs != [GRAPH_OUTPUT]:
        raise GraphError(f"has the outputs {outputs}, not [{GRAPH_OUTPUT!r}]")
    for value in inputs:
        _check_type(value, "BOOL" if value.name.startswith("key_valid") else "INT64")
        rank = 1 if value.name in FLAT_INPUTS else 2
        if (sizes := _sizes(value)) != [0] * rank:
            raise GraphError(
                f"{value.name} has the shape {sizes}, not {[0] * rank} (0 for any size): batches vary in all of them",
            )
    _check_type(model.graph.output[0], "FLOAT")
    shape = _sizes(model.graph.output[0])
    if len(shape) != 2 or shape[0] != 0 or shape[1] not in (0, len(manifest.heads)):
        raise GraphError(f"{GRAPH_OUTPUT} has the shape {shape}, not (scores, {len(manifest.heads)} heads)")
    try:
        _check_tables(model.graph, manifest, vocabulary)
    except (IndexError, ValueError, OverflowError) as error:
        if isinstance(error, GraphError):
            raise
        raise GraphError(f"has a node without the inputs that its operator takes: {error}") from error
    parts = list(_parts(model))
    for part in parts:
        for node in part.node:
            if node.domain not in _DOMAINS:
                raise GraphError(
                    f"has the operator {node.domain}:{node.op_type}, and only ONNX's own are served: others may read "
                    "files or run code; export the bundle again"
                )
    for tensor in (tensor for part in parts for tensor in _tensors(part)):
        for item in tensor.external_data:
            if item.key == "location" and item.value not in manifest.files:
                raise GraphError(f"takes weights from {item.value!r}, which bundle.json does not list")


def _check_tables(graph: GraphProto, manifest: Manifest, vocabulary: int) -> None:
    """A runtime may answer a look-up beyond a table with whatever lies there, which would be served as a score."""
    for name, most, what in (
        ("input_ids", vocabulary, f"the tokenizer has {vocabulary} token ids"),
        ("position_ids", manifest.max_tokens, f"an item may have {manifest.max_tokens} tokens"),
    ):
        bound = allowed_below(graph, name)
        if bound is None and name == "input_ids":
            raise GraphError("looks up no table of embeddings by input_ids: export the bundle again")
        if bound is not None and most > bound:
            raise GraphError(f"has embeddings for {bound} values of {name}, but {what}")


def _sizes(value: ValueInfoProto) -> list[int]:
    """Sizes of its dimensions, 0 where a dimension is free."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _check_type(value: ValueInfoProto, wanted: str) -> None:
    kind = value.type.tensor_type.elem_type
    # A broken graph may hold a number that is no type.
    name = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else f"of type {kind}"
    if name != wanted:
        raise GraphError(f"{value.name} is {name}, not {wanted}")


def _parts(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The graph, the functions, and the graphs in their attributes, however deep."""
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while waiting:
        part = waiting.pop()
        yield part
        for attribute in _attributes(part):
            waiting += attribute.graphs
            if attribute.HasField("g"):
                waiting.append(attribute.g)


def _attributes(part: GraphProto | FunctionProto) -> Iterator[AttributeProto]:
    if isinstance(part, FunctionProto):
        yield from part.attribute_proto
    for node in part.node:
        yield from node.attribute


def _tensors(part: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    """Every tensor that may lie in another file, but those of graphs within."""
    if isinstance(part, GraphProto):
        yield from part.initializer
        yield from _sparse_tensors(part.sparse_initializer)
    for attribute in _attributes(part):
        # A field that is not set reads as an empty message, which holds no external data.
        yield from (attribute.t, *attribute.tensors)
        yield from _sparse_tensors((attribute.sparse_tensor, *attribute.sparse_tensors))


def _sparse_tensors(tensors: Iterable[SparseTensorProto]) -> Iterator[TensorProto]:
    for sparse in tensors:
        yield from (sparse.values, sparse.indices)
