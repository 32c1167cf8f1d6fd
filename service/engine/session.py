"""What an engine must do, whatever runs underneath."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from service.bundle.layout import Layout

Rewards = npt.NDArray[np.float32]

LEAST_SIDE: Final = 32
"""Matrices narrower than this stay in float32 in every precision: a head costs nothing and is read by everybody."""


class EngineError(RuntimeError):
    """The engine could not run a batch; the batch's items fail, nobody else's."""


class OutOfMemoryError(EngineError):
    """The batch was too large for the memory that is left; a smaller one may do."""


class ProviderError(RuntimeError):
    """The execution provider that was asked for cannot run the model. Nothing is served on another one silently."""


@dataclass(frozen=True)
class Resources:
    """What a session may take.

    Attributes:
        threads: threads of one operator.
        max_batch_tokens: the most flat tokens of a batch.
        gpu_memory_mb: MiB of a GPU's memory for weights and batches; None for all that is free.
    """

    threads: int = 1
    max_batch_tokens: int = 4096
    gpu_memory_mb: int | None = None


@dataclass(frozen=True)
class Placement:
    """Nodes of the graph by the provider that runs them.

    Attributes:
        nodes: how many nodes each provider runs.
        heavy_elsewhere: operators that take the time and that another provider than the chosen one runs, with their
            number.
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
    """Where its nodes run."""

    def shaped(self, layout: Layout) -> Layout:
        """The layout as the runtime will be given it, with what is added counted; any thread may ask."""

    def run(self, layout: Layout) -> Rewards:
        """Rewards (N, heads) float32 of one layout, shaped or not.

        Raises:
            EngineError: the batch failed.
        """


def batch_error(runtime: str, layout: Layout, error: Exception) -> EngineError:
    """A runtime's exception as the engine's own; runtimes have no class for a lack of memory, but say one of these."""
    reason = one_line(error)
    text = reason.lower()
    # The third is that of an arena with a limit, the last that of CUDA's libraries.
    signs = ("failed to allocate", "out of memory", "smaller than requested bytes", "bad_alloc", "_alloc_failed")
    memory = any(sign in text for sign in signs)
    kind = OutOfMemoryError if memory or isinstance(error, MemoryError) else EngineError
    return kind(f"{runtime} failed on a batch of {layout.tokens} tokens: {reason}")


def one_line(error: Exception) -> str:
    """What a runtime says, which goes over many lines."""
    return " ".join(str(error).split())
