"""An ONNX Runtime session over a bundle's graph, and where its nodes really run."""

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.bundle.layout import GRAPH_OUTPUT, Layout, plan_layout
from service.bundle.reader import Bundle, BundleError
from service.engine.providers import Provider, ProviderError, Shapes

Rewards = npt.NDArray[np.float32]


class EngineError(RuntimeError):
    """The engine could not run a batch; the batch's items fail, nobody else's."""


class OutOfMemoryError(EngineError):
    """The batch was too large for the memory that is left; a smaller one may do."""


@dataclass(frozen=True)
class Placement:
    """Nodes of the graph by the provider that ran them, measured on one batch.

    Attributes:
        nodes: how many nodes each provider ran.
        heavy_elsewhere: operators of `_HEAVY` that another provider than the chosen one ran, with their number.
    """

    nodes: dict[str, int]
    heavy_elsewhere: dict[str, int]


class Session(Protocol):
    """What runs one batch. Called from one thread only."""

    provider: str
    """Name of the execution provider that really runs the graph."""
    precision: str
    """What it computes in."""
    placement: Placement
    """Where its nodes ran when it was loaded."""

    def run(self, layout: Layout) -> Rewards:
        """Rewards (N, heads) float32 of one layout.

        Raises:
            EngineError: the batch failed.
        """


_HEAVY: Final = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention", "MultiHeadAttention", "Softmax", "Conv"}
"""Where a model's time goes. Nodes that only move shapes run on the CPU under every provider."""


class OnnxSession:
    """ONNX Runtime on one execution provider, or not at all.

    Args:
        bundle: a checked bundle.
        provider: built into this ONNX Runtime.
        precision: one of the provider's.
        threads: threads of one operator.
        max_batch_tokens: the most flat tokens of a batch.

    Raises:
        ProviderError: the runtime fell back from the provider, wholly or for what takes the time.
        BundleError: the runtime refuses the graph.
    """

    def __init__(
        self, bundle: Bundle, provider: Provider, precision: str, threads: int, max_batch_tokens: int = 4096
    ) -> None:
        manifest = bundle.manifest
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # A memory pattern is kept for every shape ever seen: without a bound, since no two batches are alike.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        shapes = Shapes(max_batch_tokens, manifest.max_tokens, manifest.block_queries)
        chosen = (provider.onnx_name, dict(provider.options(precision, threads, shapes)))
        with tempfile.TemporaryDirectory(prefix="assay-profile-") as folder:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder, "load"))
            try:
                # By path, never from bytes: external data then stays inside the checked folder.
                self._session = ort.InferenceSession(bundle.model_path, options, providers=[chosen])
            except Exception as error:  # the runtime's exceptions share no base
                if provider.name == "cpu":
                    raise BundleError(bundle.model_path, f"ONNX Runtime cannot load it: {error}") from error
                raise ProviderError(f"{provider.onnx_name} cannot load {bundle.model_path}: {error}") from error
            active = self._session.get_providers()[0]
            if active != provider.onnx_name:
                raise ProviderError(
                    f"asked for {provider.onnx_name}, but ONNX Runtime runs {active}: see its log for what is missing"
                )
            self.provider, self.precision = active, precision
            try:
                self._compute(plan_layout([np.zeros(2, dtype=np.int64)], manifest.family))
            except EngineError as error:
                raise BundleError(bundle.model_path, str(error)) from error
            self.placement = read_placement(Path(self._session.end_profiling()), active)
        if self.placement.heavy_elsewhere:
            raise ProviderError(f"{active} leaves {self.placement.heavy_elsewhere} of this graph to the CPU")

    def run(self, layout: Layout) -> Rewards:
        """See `Session.run`."""
        return self._compute(layout)

    def _compute(self, layout: Layout) -> Rewards:
        try:
            rewards: Rewards = self._session.run([GRAPH_OUTPUT], layout.arrays())[0]
        except Exception as error:  # as above
            kind = OutOfMemoryError if _is_out_of_memory(error) else EngineError
            raise kind(f"ONNX Runtime failed on a batch of {layout.tokens} tokens: {error}") from error
        return rewards


def _is_out_of_memory(error: Exception) -> bool:
    """The runtime has no class for it; its arenas and CUDA say one of these."""
    text = str(error).lower()
    return any(sign in text for sign in ("failed to allocate memory", "out of memory", "bad_alloc"))


def read_placement(profile: Path, chosen: str) -> Placement:
    """Read a profile of the runtime: one event for each node that ran."""
    events: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    runs = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    elsewhere = Counter(run["op_name"] for run in runs if run["provider"] != chosen and run["op_name"] in _HEAVY)
    return Placement(dict(Counter(run["provider"] for run in runs)), dict(elsewhere))
