"""An ONNX Runtime session over a bundle's graph."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.bundle.layout import GRAPH_OUTPUT, Layout
from service.bundle.reader import Bundle, BundleError

Rewards = npt.NDArray[np.float32]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Execution providers by the name that the setting uses."""


class EngineError(RuntimeError):
    """The engine could not run a batch; the batch's items fail, nobody else's."""


class ProviderError(RuntimeError):
    """The execution provider that was asked for is not there. Nothing is served on another one silently."""


class Session(Protocol):
    """What runs one batch. Called from one thread only."""

    provider: str
    """Name of the execution provider that really runs the graph."""

    def run(self, layout: Layout) -> Rewards:
        """Rewards (N, heads) float32 of one layout.

        Raises:
            EngineError: the batch failed.
        """


class OnnxSession:
    """ONNX Runtime, on the execution provider asked for or not at all.

    Args:
        bundle: a checked bundle.
        provider: a key of `PROVIDERS`, or "auto": cuda where it is built in, else cpu.
        threads: threads of one operator.

    Raises:
        ProviderError: the provider is not in this build, or the runtime fell back from it.
        BundleError: the runtime refuses the graph.
    """

    def __init__(self, bundle: Bundle, provider: str, threads: int) -> None:
        wanted = _choose(provider)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A memory pattern is kept for every shape ever seen: without a bound, since no two batches are alike.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        try:
            # By path, never from bytes: external data then stays inside the checked folder.
            self._session = ort.InferenceSession(bundle.model_path, options, providers=[wanted])
        except Exception as error:  # the runtime's exceptions share no base
            raise BundleError(bundle.model_path, f"ONNX Runtime cannot load it: {error}") from error
        active = self._session.get_providers()[0]
        if active != wanted:
            raise ProviderError(f"asked for {wanted}, but ONNX Runtime runs {active}: see its log for what is missing")
        self.provider = active

    def run(self, layout: Layout) -> Rewards:
        """See `Session.run`."""
        try:
            rewards: Rewards = self._session.run([GRAPH_OUTPUT], layout.arrays())[0]
        except Exception as error:  # as above
            raise EngineError(f"ONNX Runtime failed on a batch of {layout.tokens} tokens: {error}") from error
        return rewards


def _choose(provider: str) -> str:
    available = ort.get_available_providers()
    if provider == "auto":
        return PROVIDERS["cuda"] if PROVIDERS["cuda"] in available else PROVIDERS["cpu"]
    wanted = PROVIDERS[provider]
    if wanted not in available:
        raise ProviderError(
            f"{wanted} is not in this build of ONNX Runtime (it has {', '.join(available)}); "
            "install the extra for it, or set the provider to cpu"
        )
    return wanted
