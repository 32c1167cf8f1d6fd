"""Weights in 8-bit integers."""

import numpy as np
import openvino as ov
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset13

from service.engine.int8 import group_size, quantise_weights, rounded


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
    ("inner", "size"), [([576, 1536], 192), ([384, 1536], 192), ([4096, 11008], 256), ([64], 64), ([100, 30], 32)]
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
