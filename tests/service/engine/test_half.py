"""Which products of a graph are in 16 bits, and that the others and the scores stay what they are."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper, parser

from service.bundle.manifest import MODEL_NAME
from service.engine.half import PRECISIONS, half_precision
from service.engine.onnx_session import CPU, open_graph
from service.engine.session import ProviderError

WIDTH = 64
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
graph (float[n, 64] x, float[n, 1] position, float[n, n] pool) => (float[n, 1] rewards) {
    angle = MatMul(position, frequencies)
    query_flat = MatMul(x, query_weight)
    key = Gemm <transB = 1> (x, key_weight, key_bias)
    query = Add(query_flat, angle)
    key_across = Transpose <perm = [1, 0]> (key)
    weights_raw = MatMul(query, key_across)
    weights_scaled = Mul(weights_raw, scale)
    weights = Softmax(weights_scaled)
    seen = MatMul(weights, x)
    residual = Add(seen, x)
    pooled = MatMul(pool, residual)
    rewards = Gemm(pooled, head)
}
"""
IN_HALF = {"query_flat", "key", "weights_raw", "seen"}


def weights(size: float = 0.2) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {
        "frequencies": (1, WIDTH), "query_weight": (WIDTH, WIDTH), "key_weight": (WIDTH, WIDTH), "key_bias": (WIDTH,),
        "head": (WIDTH, 1),
    }  # fmt: skip
    arrays = {name: (size * generator.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    return arrays | {"scale": np.array(0.125, dtype=np.float32)}


def write(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    """The graph with its weights in a file beside it, as a bundle has them."""
    model = parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    path = folder / MODEL_NAME
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    return path


def inputs(rows: int = 9) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {
        "x": generator.normal(size=(rows, WIDTH)).astype(np.float32),
        "position": np.arange(rows, dtype=np.float32)[:, None] * 1000,
        "pool": np.full((rows, rows), 300, dtype=np.float32),
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_linear_layers_and_attention_are_in_16_bits_and_nothing_else(tmp_path, precision):
    """Angles, which grow with the position, sums of pooling, and the head that everybody reads are not."""
    graph, values = half_precision(write(tmp_path, weights()), precision)
    model = onnx.load_from_string(graph)
    kind = PRECISIONS[precision][0]
    types = dict(elem_types(model, values))
    changed = {
        node.output[0].removesuffix(f".{precision}.product")
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and types[node.output[0]] == kind
    }
    assert changed == IN_HALF
    assert types["rewards"] == types["angle"] == types["residual"] == TensorProto.FLOAT


def elem_types(model, values):
    """Types of all values, by strict inference, which refuses operators whose inputs are of two types."""
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.ClearField("external_data")
            tensor.data_location = TensorProto.DEFAULT
            tensor.raw_data = bytes(
                np.prod(tensor.dims, dtype=int) * (4 if tensor.data_type == TensorProto.FLOAT else 2)
            )
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        yield value.name, value.type.tensor_type.elem_type


def test_scores_are_off_by_what_rounding_makes_of_them(tmp_path):
    path = write(tmp_path, weights())
    full, half = (
        open_graph(path, precision, ort.SessionOptions(), CPU, {}).run(None, inputs())[0]
        for precision in ("fp32", "fp16")
    )
    assert half.dtype == np.float32
    error = np.abs(half - full).max() / np.abs(full).max()
    assert 0 < error < 2e-3


def test_bits_of_bfloat16_are_those_that_are_nearest(tmp_path):
    arrays = weights()
    _, values = half_precision(write(tmp_path, arrays), "bf16")
    weight = values["query_weight.bf16"]
    assert weight.element_type() == TensorProto.BFLOAT16
    assert weight.shape() == [WIDTH, WIDTH]
    _, dtype = PRECISIONS["bf16"]
    rounded = arrays["query_weight"].astype(dtype).astype(np.float32)
    assert np.abs(rounded / arrays["query_weight"] - 1).max() <= 2**-8


@pytest.mark.parametrize(("precision", "fits"), [("fp16", False), ("bf16", True)])
def test_a_weight_beyond_the_range_of_fp16_is_an_error_and_not_infinity(tmp_path, precision, fits):
    path = write(tmp_path, weights(1e6))
    if fits:
        half_precision(path, precision)
    else:
        with pytest.raises(ValueError, match=r"weights query_weight are not finite in float16"):
            half_precision(path, precision)


def test_a_graph_without_products_is_refused(pocket_bundle):
    with pytest.raises(ValueError, match="no matrix products"):
        half_precision(pocket_bundle.model_path, "fp16")


def branched(folder: Path) -> Path:
    """A weight that only a branch reads, an input that is left out, and a weight that is an input of the graph too."""
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    graph (float[n, 64] x, bool condition, float[64, 64] query_weight) => (float[n, 64] y) {
        first = Gemm (x, query_weight, "")
        second = If (condition) <
            then_branch = then () => (float[n, 64] a) { a = MatMul(x, key_weight) },
            else_branch = other () => (float[n, 64] b) { b = Identity(x) }
        >
        y = Add(first, second)
    }
    """
    model = parser.parse_model(text.replace(', "")', ")"))
    model.graph.node[0].input.append("")
    for name in ("query_weight", "key_weight"):
        model.graph.initializer.append(numpy_helper.from_array(weights()[name], name))
    onnx.save(model, folder / MODEL_NAME, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    return folder / MODEL_NAME


def test_what_branches_read_stays_and_inputs_that_are_left_out_stay_so(tmp_path):
    path, given = branched(tmp_path), {"x": inputs()["x"], "condition": np.array(True)}
    full, half = (
        open_graph(path, precision, ort.SessionOptions(), CPU, {}).run(None, given)[0] for precision in ("fp32", "fp16")
    )
    assert half == pytest.approx(full, abs=1e-2)


def test_weights_outside_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "inner").mkdir()
    path = write(tmp_path, weights())
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../model.onnx.data"
    (tmp_path / "inner" / MODEL_NAME).write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="outside of the folder"):
        half_precision(tmp_path / "inner" / MODEL_NAME, "fp16")


def test_a_driver_that_is_missing_is_said_before_anything_is_converted(tmp_path, monkeypatch):
    """In bf16 the CPU's lack of an operator would be blamed."""
    load = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda graph, *rest, providers: load(graph, *rest, providers=[CPU]))
    with pytest.raises(ProviderError, match="asked for CUDAExecutionProvider, but ONNX Runtime runs CPU"):
        open_graph(tmp_path / "none", "bf16", ort.SessionOptions(), "CUDAExecutionProvider", {})
