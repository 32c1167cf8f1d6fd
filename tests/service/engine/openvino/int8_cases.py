"""Weights in 8-bit integers."""

import re

import ml_dtypes
import numpy as np
import onnx
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13

from service.engine.cpus import computes_int8
from service.engine.int8 import group_size, quantise_weights, rounded
from service.engine.openvino_session import compile_graph
from service.engine.providers import PROVIDERS
from service.engine.session import ProviderError, Resources


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0, 1]), st.floats(1e-20, 1e20))
def test_rounding_is_off_by_half_a_step_at_most(seed, rows, columns, axis, size):
    weight = (np.random.default_rng(seed).normal(size=(rows, columns)) * size).astype(np.float32)
    integers, scale = rounded(weight, axis)
    assert integers.dtype == np.int8
    assert scale.shape == ((1, columns) if axis == 0 else (rows, 1))
    assert (np.abs(integers.astype(np.int16)) <= 127).all()  # -128 would have no counterpart
    assert (np.abs(integers * scale - weight) <= scale * (0.5 + 1e-4)).all()


def test_a_column_of_zeros_stays_zero():
    integers, scale = rounded(np.zeros((3, 2), dtype=np.float32), 0)
    assert not integers.any()
    assert np.isfinite(scale).all()


@pytest.mark.parametrize(
    ("inner", "size"), [([576, 1536], 64), ([384, 1536], 64), ([4096, 11008], 64), ([96], 32), ([100, 30], 32)]
)
def test_a_group_cuts_every_layer_evenly(inner, size):
    assert group_size(inner) == size


def graph(transposed, columns):
    weight = np.random.default_rng(0).normal(size=(64, columns)).astype(np.float32)
    x = opset13.parameter([-1, 64], np.float32)
    product = opset13.matmul(x, opset13.constant(weight.T.copy() if transposed else weight), False, transposed)
    return ov.Model([product], [x]), weight


@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_layer_keeps_its_value(transposed):
    model, weight = graph(transposed, 48)
    assert quantise_weights(model) == [64]
    x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    compiled = ov.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    )
    integers, scale = rounded(weight, 0)
    assert compiled([x])[0] == pytest.approx(x @ (integers * scale), abs=1e-4)


def test_a_head_stays_as_it_is():
    model, _ = graph(False, 1)
    assert quantise_weights(model) == []


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """A graph of two linear layers and a head, and its matrices."""
    generator = np.random.default_rng(3)
    matrices = [generator.normal(size=shape).astype(np.float32) / 8 for shape in ((64, 64), (64, 64), (64, 1))]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"]), helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"]), helper.make_node("MatMul", ["c", "w2"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 64), ("y", 1))]
    tensors = [numpy_helper.from_array(matrix, f"w{place}") for place, matrix in enumerate(matrices)]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], tensors)
    path = tmp_path_factory.mktemp("layers") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path, matrices


def run(path, x, precision="int8"):
    request = compile_graph(path, precision, 1).create_infer_request()
    request.infer({"x": x})
    return request.get_output_tensor(0).data[:, 0].copy()


X = np.random.default_rng(4).normal(size=(9, 64)).astype(np.float32)


def test_the_layers_are_rounded_and_nearly_right(layers):
    path, (first, second, head) = layers
    right = (np.tanh(X @ first) @ second @ head)[:, 0]
    error = np.abs(run(path, X) - right).max()
    assert 1e-6 < error < 0.1 * right.std()
    assert np.abs(run(path, X, "fp32") - right).max() < 1e-5


def test_a_row_is_rounded_by_itself(layers):
    path, _ = layers
    together = run(path, np.concatenate([X, 1000 * X]))
    assert together[: len(X)] == pytest.approx(run(path, X), abs=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_weight_that_could_make_an_activation_infinite(layers, tmp_path, place, value):
    """The runtime would round it to an integer (see below). In floating point it is seen."""
    path, matrices = layers
    broken = matrices[place].copy()
    broken[3, 0] = value
    model = onnx.load(path)
    model.graph.initializer[place].CopyFrom(numpy_helper.from_array(broken, f"w{place}"))
    onnx.save(model, tmp_path / "model.onnx")
    said = re.escape(f"weights w{place} scale by up to {abs(value):g}, and above 1024")
    with pytest.raises(ValueError, match=said):
        compile_graph(tmp_path / "model.onnx", "int8", 1)
    compile_graph(tmp_path / "model.onnx", "bf16", 1)


def hidden_in(layers, tmp_path, scale, dtype, operator="Mul"):
    """The graph, and a constant of another type or of one element between its layers."""
    path, _ = layers
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale, dtype=dtype), "scale"))
    nodes = list(model.graph.node)
    nodes[1].output[0] = "b0"
    cast = helper.make_node("Cast", ["scale"], ["scale32"], to=TensorProto.FLOAT)
    nodes[2:2] = [cast, helper.make_node(operator, ["b0", "scale32"], ["b"])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        ([np.nan], np.float32),
        ([np.inf], np.float32),
        ([1.0] * 63 + [np.nan], np.float16),
        ([1.0] * 63 + [2e3], np.float64),
        ([1.0] * 63 + [1e10], ml_dtypes.bfloat16),
        ([1] * 63 + [5000], np.int32),
        ([5000], np.int64),
    ],
)
def test_a_constant_of_any_type_and_size_that_could_break_an_activation(layers, tmp_path, scale, dtype):
    with pytest.raises(ValueError, match="scale by up to"):
        compile_graph(hidden_in(layers, tmp_path, scale, dtype), "int8", 1)


@pytest.mark.parametrize(
    ("scale", "operator"), [([1e30], "Mul"), ([1e-30], "Div"), ([0.0], "Div"), ([1.0] * 63 + [-1e-5], "Div")]
)
def test_a_constant_that_scales_beyond_what_a_layer_bears(layers, tmp_path, scale, operator):
    with pytest.raises(ValueError, match="scale by up to"):
        compile_graph(hidden_in(layers, tmp_path, scale, np.float32, operator), "int8", 1)


@pytest.mark.parametrize(("scale", "operator"), [([-3e38], "Add"), ([8.0], "Div"), ([0.125], "Mul"), ([1e30], "Max")])
def test_a_single_number_that_scales_nothing_far(layers, tmp_path, scale, operator):
    """As it stands for minus infinity in a mask."""
    compile_graph(hidden_in(layers, tmp_path, scale, np.float32, operator), "int8", 1)


def test_a_shape_that_is_multiplied_is_no_scale():
    model, _ = graph(False, 48)
    size = opset13.multiply(opset13.shape_of(model.input(0).get_node()), opset13.constant(np.array([5000], np.int64)))
    assert quantise_weights(ov.Model([model.output(0).get_node(), size], model.get_parameters())) == [64]


@pytest.mark.skipif(not computes_int8(), reason="without VNNI OpenVINO computes otherwise, and int8 is not served")
def test_what_is_no_number_would_be_rounded_to_one(layers):
    """Why weights are refused; where the runtime learns to tell, they need not be any more."""
    path, _ = layers
    broken = X.copy()
    broken[3, 5] = np.nan
    assert np.isfinite(run(path, broken)).all()
    assert np.isnan(run(path, broken, "fp32")).any()


def test_a_graph_without_layers_to_round(pocket_bundle):
    with pytest.raises(ProviderError, match="no linear layers in a form"):
        PROVIDERS["openvino"].open(pocket_bundle, "int8", Resources())
