"""Matrix products in half precision, for runtimes that run a graph in the types that it has.

As mixed precision is trained (Micikevicius et al. 2018; torch.autocast): linear layers and both products of attention
take and give 16 bits, everything between them stays in float32: sums along the residual, norms, softmax, rotary angles,
pooling and the head. ONNX Runtime's converter (`onnxruntime.transformers.float16`) knows no bfloat16 and rounds what
lies between the operators that it leaves.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

LEAST_SIDE: Final = 32
"""Matrices narrower than this stay in float32: a head of one output costs nothing and is read by everybody."""

PRECISIONS: Final[dict[str, tuple[int, Any]]] = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
"""ONNX's and numpy's type of each."""


def half_precision(path: Path, precision: str) -> tuple[bytes, dict[str, ort.OrtValue]]:
    """Read a float32 graph and put its matrix products in 16 bits.

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
    model = onnx.load(path)
    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0] for node in (*_linear(graph, arrays), *_attention(graph, arrays))}
    if not products:
        raise ValueError("it has no matrix products in a form that could be put in 16 bits")
    weights: dict[str, tuple[int, Any]] = {}
    nodes: list[NodeProto] = []
    cast: dict[str, str] = {}
    for node in graph.node:
        if node.output[0] not in products:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if name not in cast:
                cast[name] = f"{name}.{precision}"
                if name in arrays:
                    weights[cast[name]] = (onnx_type, _rounded(name, arrays[name], dtype))
                else:
                    nodes.append(helper.make_node("Cast", [name], [cast[name]], f"{name}.{precision}", to=onnx_type))
            node.input[place] = cast[name]
        given = node.output[0]
        node.output[0] = f"{given}.{precision}.product"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [given], f"{given}.fp32", to=TensorProto.FLOAT)]
    used = {name for node in nodes for name in node.input}
    weights |= {name: (TensorProto.FLOAT, array) for name, array in arrays.items() if name in used and _large(array)}
    kept = [tensor for tensor in graph.initializer if tensor.name in used and tensor.name not in weights]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *(_elsewhere(name, kind, array) for name, (kind, array) in weights.items())])
    del graph.value_info[:]  # the runtime infers them anew
    return model.SerializeToString(), {name: _value(kind, array) for name, (kind, array) in weights.items()}


def _linear(graph: onnx.GraphProto, arrays: dict[str, Any]) -> list[NodeProto]:
    """Products with a matrix of weights, or with those of several experts."""
    wide = {
        name
        for name, weight in arrays.items()
        if weight.dtype == np.float32 and weight.ndim >= 2 and min(weight.shape[-2:]) >= LEAST_SIDE
    }
    return [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in wide]


def _attention(graph: onnx.GraphProto, arrays: dict[str, Any]) -> Iterator[NodeProto]:
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
            yield from (product for product in (*before, *after) if not arrays.keys() & set(product.input))


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


def _rounded(name: str, weight: Any, dtype: Any) -> Any:
    with np.errstate(over="ignore"):
        half = weight.astype(dtype)
    if not np.isfinite(half.astype(np.float32)).all():
        raise ValueError(f"weights {name} are not finite in {np.dtype(dtype).name}")
    return half


def _large(array: Any) -> bool:
    return bool(array.dtype == np.float32 and array.nbytes >= 1024)


def _elsewhere(name: str, kind: int, array: Any) -> TensorProto:
    """An initializer whose value is handed to the runtime beside the graph."""
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="handed over beside the graph")
    return tensor


def _value(kind: int, array: Any) -> ort.OrtValue:
    if kind == TensorProto.BFLOAT16:  # numpy has no such type: the runtime takes its bits
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind)
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
