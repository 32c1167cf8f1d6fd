"""Linear layers in 8-bit integers, as OpenVINO computes them: weights rounded here, activations by the runtime.

Every column of a weight matrix has a scale of its own, its largest magnitude over 127, and is rounded to the nearest
of -127 to 127. The runtime finds these constants behind a conversion and a product, keeps them as they are, and rounds
the activations of every token in groups of consecutive features, so that a score depends on no other token's size.

An activation that is no number, or infinite, would be rounded to one, and a reward be invented. So a graph is refused
where its constants could make one: one that is not finite, or that weighs or divides so that a layer could overflow.
"""

from collections.abc import Iterable, Iterator
from math import gcd
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13

from service.engine.session import LEAST_SIDE

_STEP, _MOST = 32, 64
"""Sizes of groups that the runtime's kernels take. Shorter ones are rounded less, and 64 are as fast as any here."""
_LARGEST_WEIGHT: Final = 1024.0
"""What a norm gives is at most the root of its width, times a weight, plus one. With none larger than this and a width
of 16,384, a linear layer over it stays below 1e13, a product of two such (queries and keys; a gate and what it lets
through) below 1e28, and a layer over that below 1e33; float32 and bfloat16 end at 3e38. Where layers read the residual
itself, it is the sum of such branches, each normalised: some hundred times more. Trained weights are below 10, mostly,
so that all this is far away."""
_BRANCHES: Final = ("If", "Loop", "TensorIterator")
_SCALING: Final = ("Multiply", "MatMul", "Divide")
_SAME: Final = ("Convert", "Reshape", "Unsqueeze", "Squeeze", "Broadcast", "Transpose")


def quantise_weights(model: ov.Model) -> list[int]:
    """Replace the weights of the linear layers in place.

    Returns:
        The inner dimension of every product that was changed.

    Raises:
        ValueError: a constant is not finite, a weight, of whatever operator, too large, or a part of the graph hidden.
    """
    products = [operator for operator in model.get_ops() if _is_linear(operator)]
    if products:
        _refuse_overflow(model)
    inner = []
    for product in products:
        constant = product.input_value(1).get_node()
        axis = 1 if product.get_attributes()["transpose_b"] else 0
        integers, scale = rounded(constant.data.astype(np.float32), axis)
        weight = opset13.multiply(opset13.convert(opset13.constant(integers), "f32"), opset13.constant(scale))
        product.input(1).replace_source_output(weight.output(0))
        inner.append(int(constant.shape[axis]))
    return inner


def _is_linear(operator: ov.Node) -> bool:
    """A product with a matrix of weights in float32, but for those of a head."""
    if operator.get_type_name() != "MatMul":
        return False
    weight = operator.input_value(1).get_node()
    is_matrix = weight.get_type_name() == "Constant" and len(weight.shape) == 2 and min(weight.shape) >= LEAST_SIDE
    return is_matrix and weight.get_element_type() == ov.Type.f32


def _refuse_overflow(model: ov.Model) -> None:
    for operator in model.get_ops():
        kind, name = operator.get_type_name(), operator.get_friendly_name()
        if kind in _BRANCHES:
            raise ValueError(f"{name} has a graph within, whose weights are not looked at")
        if kind != "Constant" or 0 in operator.shape:
            continue
        readers = list(_readers(operator.output(0)))
        scales = any(reader in _SCALING for reader, _ in readers)
        if not operator.get_element_type().is_real() and not scales:  # an index or a shape
            continue
        is_float32 = operator.get_element_type() == ov.Type.f32
        values = operator.data if is_float32 else operator.get_data(dtype=np.float32)  # bf16 reads as float16 by `data`
        most = float(max(values.max(), -values.min()))
        if ("Divide", 1) in readers:
            with np.errstate(divide="ignore"):
                most = max(most, float(np.abs(1 / values).max()))
        # A single number that scales nothing is no weight: it stands for minus infinity in a mask.
        if not np.isfinite(most) or ((scales or values.size > 1) and most > _LARGEST_WEIGHT):
            raise ValueError(
                f"weights {name} scale by up to {most:g}, and above {_LARGEST_WEIGHT:g} a sum might overflow, "
                "which integers would hide"
            )


def _readers(value: ov.Output) -> Iterator[tuple[str, int]]:
    """Who computes with a value as a real number, in whatever shape: kind of operator and place among its inputs."""
    for reader in value.get_target_inputs():
        node = reader.get_node()
        if node.get_type_name() in _SAME and reader.get_index() == 0:
            yield from _readers(node.output(0))
        elif value.get_element_type().is_real():  # integers count shapes
            yield node.get_type_name(), reader.get_index()


def rounded(weight: npt.NDArray[np.float32], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers and scales of a matrix, whose product is the nearest to it.

    Args:
        weight: (K, N) with `axis` 0, (N, K) with `axis` 1.
        axis: the inner one, along which a scale is shared.

    Returns:
        Integers of the same shape, and scales with size 1 along `axis`.
    """
    scale: npt.NDArray[Any] = np.abs(weight).max(axis, keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def group_size(inner: Iterable[int]) -> int:
    """The largest group of features that cuts all inner dimensions evenly; the kernel falls back where none does."""
    common = gcd(*inner)
    return max((size for size in range(_STEP, _MOST + 1, _STEP) if common % size == 0), default=_STEP)
