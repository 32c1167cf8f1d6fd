"""How ONNX Runtime's execution providers are set up for this graph."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.bundle.layout import BLOCK_GROUPS, FLAT_INPUTS
from service.engine.shapes import rounded


@dataclass(frozen=True)
class Shapes:
    """Sizes between which batches lie, for providers that compile for a range of shapes.

    Attributes:
        max_batch_tokens: the most flat tokens of a batch.
        max_tokens: the most tokens of an item.
        block_queries: Q of the layout.
    """

    max_batch_tokens: int
    max_tokens: int
    block_queries: int


def cuda_options(memory_mb: int | None = None) -> Mapping[str, str]:
    """CUDA without the roundings that its defaults take.

    Args:
        memory_mb: MiB for weights and batches; without it the arena takes what it likes. What the driver and the
            libraries keep for themselves, some hundred, is not among them.
    """
    limit = {} if memory_mb is None else {"gpu_mem_limit": str(memory_mb * 1024**2)}
    return limit | {
        # Doubling, the default, keeps twice the largest batch for good (onnxruntime#22297).
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # its 10 bits of mantissa are not the fp32 that the bundle's gate was passed in
    }


def tensorrt_options(shapes: Shapes) -> Mapping[str, str]:
    """With one explicit profile: a shape outside rebuilds the engine, which takes a minute (onnxruntime#12120).

    The engine is built at every start and not kept: the runtime would find a kept one by the names in the graph, which
    say nothing of its weights, and so serve the model of before.
    """
    least, most = _profile(1, 1, 1, 1, 1), _profile(
        rounded(shapes.max_batch_tokens),
        rounded(-(-shapes.max_batch_tokens // shapes.block_queries) + shapes.max_batch_tokens // 2),
        rounded(shapes.block_queries), rounded(shapes.max_tokens + shapes.block_queries), shapes.max_batch_tokens,
    )  # fmt: skip
    usual = _profile(
        shapes.max_batch_tokens // 2 or 1, max(1, shapes.max_batch_tokens // shapes.block_queries // 2),
        shapes.block_queries, shapes.max_tokens, 16,
    )  # fmt: skip
    return {
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": usual,
        "trt_profile_max_shapes": most,
        "trt_engine_cache_enable": "False",  # this provider knows no other spelling of it
    }


def _profile(tokens: int, blocks: int, queries: int, keys: int, scores: int) -> str:
    """TensorRT's spelling of the shapes of all inputs."""
    shapes = {name: str(scores if name == "read_index" else tokens) for name in FLAT_INPUTS}
    for group in range(BLOCK_GROUPS):
        shapes[f"query_index_{group}"] = f"{blocks}x{queries}"
        shapes[f"key_index_{group}"] = shapes[f"key_valid_{group}"] = f"{blocks}x{keys}"
    return ",".join(f"{name}:{shape}" for name, shape in shapes.items())
