"""Matrix products in half precision, for runtimes that run a graph in the types that it has.

As mixed precision is trained (Micikevicius et al. 2018; torch.autocast): linear layers and both products of attention
take and give 16 bits, everything between them stays in float32: sums along the residual, norms, softmax, rotary angles,
pooling and the head. ONNX Runtime's converter (`onnxruntime.transformers.float16`) knows no bfloat16 and rounds what
lies between the operators that it leaves.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from service.engine.session import LEAST_SIDE

_LARGE: Final = 256
"""Elements from which on a weight in float32 is kept out of the graph."""
FloatArray = npt.NDArray[Any]

PRECISIONS: Final[dict[str, tuple[int, Any]]] = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
"""ONNX's and numpy's type of each."""


def half_precision(path: Path, precision: str) -> tuple[bytes, dict[str, ort.OrtValue]]:
    """Read a float32 graph and put its matrix products in 16 bits.

    Weights are read one at a time, so that there is never more in memory than what is returned and the largest of them.

    Args:
        path: of an ONNX graph, with its weights in it or in a file beside it.
        precision: a key of `PRECISIONS`.

    Returns:
        The graph without its weights, and these by name: a graph of more than 2 GB is no valid message.

    Raises:
        ValueError: a weight is not finite in that precision, or there is no matrix product to change.
        OSError: a file cannot be read.
    """
    onnx_type, dtype = PRECISIONS[precision]
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = {node.output[0] for node in (*_linear(graph, tensors), *_attention(graph, tensors))}
    if not products:
        raise ValueError("it has no matrix products in a form that could be put in 16 bits")
    nodes: list[NodeProto] = []
    halves: dict[str, str] = {}  # of values and weights, by the name of what they are of
    for node in graph.node:
        if node.output[0] not in products:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if not name:  # an input that is left out
                continue
            if name not in halves:
                halves[name] = f"{name}.{precision}"
                if name not in tensors:
                    nodes.append(helper.make_node("Cast", [name], [halves[name]], halves[name], to=onnx_type))
            node.input[place] = halves[name]
        given = node.output[0]
        node.output[0] = f"{given}.{precision}.product"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [given], f"{given}.fp32", to=TensorProto.FLOAT)]
    in_full = {name for name in _names(nodes) if name in tensors}
    del graph.node[:], graph.initializer[:], graph.value_info[:]  # types are inferred anew
    graph.node.extend(nodes)
    values: dict[str, ort.OrtValue] = {}
    for name, tensor in tensors.items():
        large = tensor.data_type == TensorProto.FLOAT and prod(tensor.dims) >= _LARGE
        if name in halves or name in in_full:
            array = _read(tensor, path.parent)
        if name in halves:
            values[halves[name]] = _value(onnx_type, _rounded(name, array, dtype))
            graph.initializer.append(_elsewhere(halves[name], onnx_type, array.shape))
        if name in in_full and large:
            values[name] = _value(TensorProto.FLOAT, array)
            graph.initializer.append(_elsewhere(name, TensorProto.FLOAT, array.shape))
        elif name in in_full:
            graph.initializer.append(numpy_helper.from_array(array, name))
    inputs = [value for value in graph.input if value.name not in tensors or value.name in in_full]
    del graph.input[:]
    graph.input.extend(inputs)
    return model.SerializeToString(), values


def _linear(graph: GraphProto, tensors: Mapping[str, TensorProto]) -> list[NodeProto]:
    """Products with a matrix of weights, or with those of several experts."""
    wide = {
        name
        for name, tensor in tensors.items()
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2 and min(tensor.dims[-2:]) >= LEAST_SIDE
    }
    return [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in wide]


def _attention(graph: GraphProto, tensors: Mapping[str, TensorProto]) -> Iterator[NodeProto]:
    """The products next to each softmax: of queries and keys before it, with the values after it.

    One with weights is none of them: a router of experts has a softmax too, and is narrow.
    """
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for softmax in graph.node:
        if softmax.op_type == "Softmax":
            before = _nearest(softmax, lambda node: [makers[name] for name in node.input if name in makers])
            after = _nearest(softmax, lambda node: [reader for name in node.output for reader in readers.get(name, ())])
            yield from (product for product in (*before, *after) if not tensors.keys() & set(product.input))


def _nearest(start: NodeProto, following: Callable[[NodeProto], list[NodeProto]]) -> Iterator[NodeProto]:
    """The matrix products that are reached without passing another one."""
    waiting, seen = following(start), {start.output[0]}
    while waiting:
        node = waiting.pop()
        if node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type == "MatMul":
            yield node
        elif node.op_type != "Softmax":
            waiting += following(node)


def _names(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """What nodes read, those of their branches included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                yield from _names(branch.node)


def _read(tensor: TensorProto, folder: Path) -> FloatArray:
    """Its value; from a file not by way of the message, which would keep it."""
    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    place = external_data_helper.ExternalDataInfo(tensor)
    file = (folder / place.location).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ValueError(f"weights {tensor.name} are outside of the folder")
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.fromfile(file, dtype, prod(tensor.dims), offset=place.offset or 0).reshape(tuple(tensor.dims))


def _rounded(name: str, weight: FloatArray, dtype: Any) -> FloatArray:
    with np.errstate(over="ignore"):
        half: FloatArray = weight.astype(dtype)
    if not np.isfinite(half).all():
        raise ValueError(f"weights {name} are not finite in {np.dtype(dtype).name}")
    return half


def _elsewhere(name: str, kind: int, shape: Sequence[int]) -> TensorProto:
    """An initializer whose value is handed to the runtime beside the graph."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="handed over beside the graph")
    return tensor


def _value(kind: int, array: FloatArray) -> ort.OrtValue:
    if kind == TensorProto.BFLOAT16:  # numpy has no such type: the runtime takes its bits
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
