"""Times of a bundle's graph and of its parts under OpenVINO. Run by Assay's own environment.

    python -m benchmarks.serving.limit_alone --bundle BUNDLE [--precision P] --rounds N

In, over standard input: JSON `{"batches": {name: [[token ids], ...]}}`. Out: JSON, the seconds of every round. In a
round, these run one after the other, so that a noisy minute meets all of them:

    peak       8 products of a (S, S) matrix with (S, S) weights, S = 1024 and 2048: the fastest counts
    linear     the products of the graph's own weights with so many rows as the batch has tokens, and nothing else
    blind      the whole graph, where every block of queries looks at one key
    model      the whole graph
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.bundle.layout import Layout, plan_layout
from service.bundle.reader import Bundle, read_bundle
from service.engine.cpus import usable_cpus
from service.engine.load import Wanted, load_session
from service.engine.openvino_session import compile_graph
from service.engine.session import Resources

FloatArray = npt.NDArray[np.float32]
PEAK_SIZES = (1024, 2048)
PEAK_PRODUCTS = 8


def weights_of(bundle: Bundle) -> dict[tuple[int, int], int]:
    """Shapes (K, N) of the matrices that all tokens are multiplied with, and how often each occurs."""
    graph = onnx.load(str(bundle.model_path), load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return dict(
        Counter(shapes[node.input[1]] for node in graph.node if node.op_type == "MatMul" and node.input[1] in shapes)
    )


def products(weights: dict[tuple[int, int], int]) -> onnx.ModelProto:
    """A graph that multiplies one input for each K with every weight; of each product, one row is given out."""
    generator = np.random.default_rng(0)
    nodes, outputs, tensors = [], [], [numpy_helper.from_array(np.zeros(1, dtype=np.int64), "first")]
    inputs = [
        helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, ["rows", k]) for k in sorted({k for k, _ in weights})
    ]
    for (k, n), count in weights.items():
        for copy in range(count):
            name = f"{k}x{n}_{copy}"
            weight = generator.standard_normal((k, n), dtype=np.float32) / np.sqrt(k, dtype=np.float32)
            tensors.append(numpy_helper.from_array(weight, f"w{name}"))
            nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{name}"], [f"y{name}"]))
            nodes.append(helper.make_node("Gather", [f"y{name}", "first"], [f"z{name}"], axis=0))
            outputs.append(helper.make_tensor_value_info(f"z{name}", TensorProto.FLOAT, [1, n]))
    return _model(nodes, inputs, outputs, tensors)


def square(size: int) -> onnx.ModelProto:
    """A chain of `PEAK_PRODUCTS` products of (S, S) matrices."""
    weight = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32) / np.sqrt(size, dtype=np.float32)
    names = [f"x{size}", *(f"y{place}" for place in range(PEAK_PRODUCTS))]
    tensors = [numpy_helper.from_array(np.roll(weight, place, 0), f"w{place}") for place in range(PEAK_PRODUCTS)]
    nodes = [helper.make_node("MatMul", [names[p], f"w{p}"], [names[p + 1]]) for p in range(PEAK_PRODUCTS)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name in (names[0], names[-1])]
    return _model(nodes, ends[:1], ends[1:], tensors)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], tensors: list[Any]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "probe", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def opened(model: onnx.ModelProto, precision: str) -> Callable[[dict[str, FloatArray]], Any]:
    """A graph compiled as the engine compiles its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.onnx")
        onnx.save(model, str(path))
        request = compile_graph(path, precision, usable_cpus()).create_infer_request()
    return lambda inputs: request.infer(inputs)


def blind(layout: Layout) -> Layout:
    """The same tokens, but every block looks at its first key alone."""
    groups = tuple(
        replace(group, key_index=group.key_index[:, :1].copy(), key_valid=group.key_valid[:, :1].copy())
        for group in layout.groups
    )
    return replace(layout, groups=groups)


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def measure(bundle: Bundle, wanted: Wanted, batches: dict[str, list[list[int]]], rounds: int) -> dict[str, Any]:
    """Seconds of every part in every round, and what each has to compute."""
    session = load_session(bundle, wanted).session
    weights = weights_of(bundle)
    linear = opened(products(weights), session.precision)
    peaks = {size: opened(square(size), session.precision) for size in PEAK_SIZES}
    squares: dict[int, FloatArray] = {size: np.ones((size, size), dtype=np.float32) for size in PEAK_SIZES}
    parts: dict[str, Callable[[], Any]] = {
        f"peak {size}": partial(peaks[size], {f"x{size}": squares[size]}) for size in PEAK_SIZES
    }
    shapes: dict[str, Any] = {}
    manifest = bundle.manifest
    for name, ids in batches.items():
        sequences = [np.array(one, dtype=np.int64) for one in ids]
        layout = plan_layout(sequences, manifest.family, block_queries=manifest.block_queries)
        rows = {f"x{k}": np.ones((layout.tokens, k), dtype=np.float32) for k, _ in weights}
        parts[f"linear {name}"] = partial(linear, rows)
        parts[f"blind {name}"] = partial(session.run, blind(layout))
        parts[f"model {name}"] = partial(session.run, layout)
        shapes[name] = {
            "items": len(ids),
            "tokens": layout.tokens,
            "needed_cells": layout.cells - layout.padded_cells,
            "computed_cells": layout.cells,
        }
    for part in parts.values():
        part()
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            times[name].append(seconds(part))
    return {
        "precision": session.precision,
        "weights": [[k, n, count] for (k, n), count in weights.items()],
        "batches": shapes,
        "seconds": times,
    }


def main() -> None:
    """Measure what standard input asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    wanted = Wanted(provider="openvino", precision=arguments.precision, resources=Resources(threads=usable_cpus()))
    asked = json.load(sys.stdin)
    print(json.dumps(measure(read_bundle(arguments.bundle), wanted, asked["batches"], arguments.rounds)))


if __name__ == "__main__":
    main()
