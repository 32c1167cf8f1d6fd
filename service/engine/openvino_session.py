"""OpenVINO over a bundle's graph: its own runtime, which serves any x86-64 or ARM processor, AMD's too."""

from pathlib import Path

import numpy as np
import openvino as ov

from service.bundle.layout import Layout, plan_layout
from service.bundle.reader import Bundle
from service.engine.cpus import computes_bf16
from service.engine.int8 import group_size, quantise_weights
from service.engine.session import EngineError, Placement, ProviderError, Rewards, batch_error, one_line
from service.engine.shapes import in_few_shapes

NAME = "OpenVINO"

_KEPT_KERNELS = 1000
"""So many kernels of one operator the runtime keeps, each for a shape; 5,000 by default, which took a gigabyte."""


class OpenVinoSession:
    """The graph compiled by OpenVINO for the processor.

    Args:
        bundle: a checked bundle.
        precision: "fp32", "bf16" or "int8".
        threads: threads of one operator.

    Raises:
        ProviderError: OpenVINO cannot compile or run the graph.
    """

    provider = NAME

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        self.precision = precision
        try:
            compiled = compile_graph(bundle.model_path, precision, threads)
            self._request = compiled.create_infer_request()
            nodes = len(compiled.get_runtime_model().get_ops())
        except Exception as error:  # the runtime raises RuntimeError and its own kinds
            raise ProviderError(f"{NAME} cannot load {bundle.model_path}: {one_line(error)}") from error
        self.placement = Placement({NAME: nodes}, {})
        try:
            self.run(plan_layout([np.zeros(2, dtype=np.int64)], bundle.manifest.family))
        except EngineError as error:
            raise ProviderError(f"{NAME} cannot run {bundle.model_path}: {error}") from error

    def shaped(self, layout: Layout) -> Layout:
        """See `Session.shaped`: the runtime compiles for every shape."""
        return in_few_shapes(layout)

    def run(self, layout: Layout) -> Rewards:
        """See `Session.run`."""
        try:
            self._request.infer(self.shaped(layout).arrays())
            rewards: Rewards = self._request.get_output_tensor(0).data.copy()
        except Exception as error:  # as above
            raise batch_error(NAME, layout, error) from error
        return rewards


def compile_graph(path: Path, precision: str, threads: int) -> ov.CompiledModel:
    """Read a graph and compile it for the processor.

    Args:
        path: of an ONNX graph.
        precision: "fp32", "bf16" or "int8"; in int8, what is not a linear layer is in bf16 where the processor
            multiplies it, else in fp32.
        threads: threads of one operator.

    Raises:
        ValueError: in int8, there is nothing to be put in integers, or something might overflow.
        RuntimeError: OpenVINO refuses the graph.
    """
    core = ov.Core()
    model = core.read_model(path)
    low = precision == "bf16" or (precision == "int8" and computes_bf16())
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",  # one batch at a time, on all threads
        "ENABLE_CPU_PINNING": "NO",  # other processes may have been given the same cores
        "CPU_RUNTIME_CACHE_CAPACITY": str(_KEPT_KERNELS),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    if precision == "int8":
        inner = quantise_weights(model)
        if not inner:
            raise ValueError("it has no linear layers in a form that could be put in integers")
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(group_size(inner))
    return core.compile_model(model, "CPU", settings)
