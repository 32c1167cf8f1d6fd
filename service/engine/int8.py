"""Linear layers in 8-bit integers, as OpenVINO computes them: weights rounded here, activations by the runtime.

Every column of a weight matrix has a scale of its own, its largest magnitude over 127, and is rounded to the nearest
of -127 to 127. The runtime finds these constants behind a conversion and a product, keeps them as they are, and rounds
the activations of every token in groups of consecutive features, so that a score depends on no other token's size.
"""

from collections.abc import Iterable, Sequence
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13

from service.engine.session import LEAST_SIDE

_STEP, _MOST = 32, 256
"""Sizes of groups that the runtime's kernels take; longer ones are faster, shorter ones rounded less."""


def quantise_weights(model: ov.Model) -> list[int]:
    """Replace the weights of the linear layers in place.

    An activation that is no number, or infinite, would be rounded to one: the sum of what goes into the layers, times
    0, is added to the rewards, so that they become NaN as they do in floating point.

    Returns:
        The inner dimension of every product that was changed.

    Raises:
        ValueError: a weight is not finite.
    """
    inner = []
    inputs: dict[str, ov.Output] = {}
    for product in model.get_ops():
        if product.get_type_name() != "MatMul":
            continue
        constant = product.input_value(1).get_node()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2 or min(constant.shape) < LEAST_SIDE:
            continue
        if constant.get_element_type() != ov.Type.f32:
            continue
        axis = 1 if product.get_attributes()["transpose_b"] else 0
        integers, scale = rounded(constant.data.astype(np.float32), axis)
        weight = opset13.multiply(opset13.convert(opset13.constant(integers), "f32"), opset13.constant(scale))
        product.input(1).replace_source_output(weight.output(0))
        inner.append(int(constant.shape[axis]))
        source = product.input_value(0)
        inputs[f"{source.get_node().get_friendly_name()} {source.get_index()}"] = source
    if inputs:
        _spoil(model, list(inputs.values()))
    return inner


def _spoil(model: ov.Model, inputs: Sequence[ov.Output]) -> None:
    """Add to all results what is 0 unless a value of `inputs` is not finite, and NaN then."""
    sums = [opset13.reduce_sum(value, _axes(value), keep_dims=False) for value in inputs]
    total = sums[0]
    for one in sums[1:]:
        total = opset13.add(total, one)
    guard = opset13.multiply(total, opset13.constant(np.float32(0)))
    for result in model.get_results():
        rewards = result.input_value(0)
        result.input(0).replace_source_output(opset13.add(rewards, guard).output(0))


def _axes(value: ov.Output) -> npt.NDArray[np.int64]:
    return np.arange(len(value.get_partial_shape()), dtype=np.int64)


def rounded(weight: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers and scales of a matrix, whose product is the nearest to it.

    Args:
        weight: (K, N) with `axis` 0, (N, K) with `axis` 1.
        axis: the inner one, along which a scale is shared.

    Returns:
        Integers of the same shape, and scales with size 1 along `axis`.

    Raises:
        ValueError: a weight is not finite.
    """
    if not np.isfinite(weight).all():
        raise ValueError("a weight is not a finite number")
    scale: npt.NDArray[Any] = np.abs(weight).max(axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def group_size(inner: Iterable[int]) -> int:
    """The largest group of features that cuts all inner dimensions evenly; the kernel falls back where none does."""
    common = gcd(*inner)
    return max((size for size in range(_STEP, _MOST + 1, _STEP) if common % size == 0), default=_STEP)
