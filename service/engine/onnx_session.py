"""An ONNX Runtime session over a bundle's graph, and where its nodes really run."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from service.bundle.layout import GRAPH_OUTPUT, Family, Layout, plan_layout
from service.bundle.reader import BundleError
from service.engine.half import half_precision
from service.engine.session import EngineError, Placement, ProviderError, Rewards, batch_error, one_line
from service.engine.shapes import in_few_shapes

CPU: Final = "CPUExecutionProvider"
_HEAVY: Final = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention", "MultiHeadAttention", "Softmax", "Conv"}
"""Where a model's time goes. Nodes that only move shapes run on the CPU under every provider."""


class OnnxSession:
    """ONNX Runtime on one execution provider, or not at all.

    Args:
        path, family: of a checked bundle's graph.
        provider: ONNX Runtime's name of an execution provider that is built in.
        options: of the provider.
        precision: "fp32", or what the provider computes matrix products in: "fp16" or "bf16".
        threads: threads of one operator.

    Raises:
        ProviderError: the runtime fell back from the provider, wholly or for what takes the time.
        BundleError: the runtime refuses the graph.
    """

    def __init__(
        self, path: Path, family: Family, provider: str, options: Mapping[str, str], precision: str, threads: int
    ) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        # A memory pattern is kept for every shape ever seen: without a bound, since no two batches are alike.
        settings.enable_mem_pattern = False
        settings.log_severity_level = 3
        with tempfile.TemporaryDirectory(prefix="assay-profile-") as folder:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder, "load"))
            try:
                self._session = open_graph(path, precision, settings, provider, options)
            except ProviderError:
                raise
            except Exception as error:  # the runtime's exceptions share no base
                if provider == CPU:
                    raise BundleError(path, f"ONNX Runtime cannot load it: {one_line(error)}") from error
                raise ProviderError(f"{provider} cannot load {path}: {one_line(error)}") from error
            active = self._session.get_providers()[0]
            if active != provider:
                raise _fallen_back(provider, active)
            self.provider, self.precision = active, precision
            try:
                self.run(plan_layout([np.zeros(2, dtype=np.int64)], family))
            except EngineError as error:
                if provider == CPU:
                    raise BundleError(path, str(error)) from error
                raise ProviderError(f"{provider} cannot run {path}: {error}") from error
            self.placement = read_placement(Path(self._session.end_profiling()), active)
        if self.placement.heavy_elsewhere:
            raise ProviderError(f"{active} leaves {self.placement.heavy_elsewhere} of this graph to the CPU")

    def shaped(self, layout: Layout) -> Layout:
        """See `Session.shaped`: on a GPU, memory is kept by size and kernels are chosen by shape."""
        return layout if self.provider == CPU else in_few_shapes(layout)

    def run(self, layout: Layout) -> Rewards:
        """See `Session.run`."""
        try:
            return self.infer(self.shaped(layout).arrays())
        except Exception as error:  # as above
            raise batch_error("ONNX Runtime", layout, error) from error

    def infer(self, arrays: Mapping[str, Any]) -> Rewards:
        """Rewards (N, heads) float32 for the arrays of a layout as they are; raises what the runtime does."""
        rewards: Rewards = self._session.run([GRAPH_OUTPUT], dict(arrays))[0]
        return rewards


def open_graph(
    path: Path, precision: str, settings: ort.SessionOptions, provider: str, options: Mapping[str, str]
) -> ort.InferenceSession:
    """Load a float32 graph for a provider, in a precision; see `OnnxSession`."""
    providers = [(provider, dict(options))]
    if precision == "fp32":
        # By path, never from bytes: external data then stays inside the checked folder.
        return ort.InferenceSession(path, settings, providers=providers)
    _require(provider, providers)
    graph, weights = half_precision(path, precision)
    settings.add_external_initializers(list(weights), list(weights.values()))
    return ort.InferenceSession(graph, settings, providers=providers)


def _require(name: str, providers: list[tuple[str, dict[str, str]]]) -> None:
    """Open a graph of nothing first: converting takes long, and an operator that the CPU lacks is not what is missing.

    Raises:
        ProviderError: the runtime falls back from the provider.
    """
    values = [helper.make_tensor_value_info(value, TensorProto.FLOAT, [1]) for value in ("x", "y")]
    nothing = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", values[:1], values[1:])
    model = helper.make_model(nothing, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    active = ort.InferenceSession(model.SerializeToString(), settings, providers=providers).get_providers()[0]
    if active != name:
        raise _fallen_back(name, active)


def _fallen_back(wanted: str, active: str) -> ProviderError:
    return ProviderError(f"asked for {wanted}, but ONNX Runtime runs {active}: see its log for what is missing")


def read_placement(profile: Path, chosen: str) -> Placement:
    """Read a profile of the runtime: one event for each node that ran."""
    events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    runs = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    elsewhere = Counter(run["op_name"] for run in runs if run["provider"] != chosen and run["op_name"] in _HEAVY)
    return Placement(dict(Counter(run["provider"] for run in runs)), dict(elsewhere))
