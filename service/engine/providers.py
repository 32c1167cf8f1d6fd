"""Execution providers of ONNX Runtime: what each is called, how it is set up, and which precisions it can run in."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from service.bundle.layout import BLOCK_GROUPS, FLAT_INPUTS
from service.engine.cpus import computes_bf16


class ProviderError(RuntimeError):
    """The execution provider that was asked for cannot run the model. Nothing is served on another one silently."""


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


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: what the setting calls it.
        onnx_name: what ONNX Runtime calls it.
        extra: the extra of this package that installs it.
        precisions: what it can compute a float32 graph in on this machine, fastest first.
        options: its options for a precision, a number of threads and the shapes of batches.
    """

    name: str
    onnx_name: str
    extra: str
    precisions: Callable[[], tuple[str, ...]]
    options: Callable[[str, int, Shapes], Mapping[str, str]]


def _cpu_options(precision: str, threads: int, shapes: Shapes) -> Mapping[str, str]:
    return {}  # threads are a session option


def _openvino_options(precision: str, threads: int, shapes: Shapes) -> Mapping[str, str]:
    settings = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": "1",  # one batch at a time, on all threads
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": settings})}


def _cuda_options(precision: str, threads: int, shapes: Shapes) -> Mapping[str, str]:
    return {
        # Doubling, the default, keeps twice the largest batch for good (onnxruntime#22297).
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",  # its 10 bits of mantissa are not the fp32 that the bundle's gate was passed in
    }


def _tensorrt_options(precision: str, threads: int, shapes: Shapes) -> Mapping[str, str]:
    """With one explicit profile: a shape outside rebuilds the engine, which takes a minute (onnxruntime#12120)."""
    least, most = _profile(1, 1, 1, 1, 1), _profile(
        shapes.max_batch_tokens, -(-shapes.max_batch_tokens // shapes.block_queries) + shapes.max_batch_tokens // 2,
        shapes.block_queries, shapes.max_tokens + shapes.block_queries, shapes.max_batch_tokens,
    )  # fmt: skip
    usual = _profile(
        shapes.max_batch_tokens // 2 or 1, max(1, shapes.max_batch_tokens // shapes.block_queries // 2),
        shapes.block_queries, shapes.max_tokens, 16,
    )  # fmt: skip
    return {
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": usual,
        "trt_profile_max_shapes": most,
        "trt_engine_cache_enable": "1",
    }


def _profile(tokens: int, blocks: int, queries: int, keys: int, scores: int) -> str:
    """TensorRT's spelling of the shapes of all inputs."""
    shapes = {name: str(scores if name == "read_index" else tokens) for name in FLAT_INPUTS}
    for group in range(BLOCK_GROUPS):
        shapes[f"query_index_{group}"] = f"{blocks}x{queries}"
        shapes[f"key_index_{group}"] = shapes[f"key_valid_{group}"] = f"{blocks}x{keys}"
    return ",".join(f"{name}:{shape}" for name, shape in shapes.items())


PROVIDERS: Final = {
    provider.name: provider
    for provider in (
        Provider("cuda", "CUDAExecutionProvider", "gpu", lambda: ("fp32",), _cuda_options),
        Provider("tensorrt", "TensorrtExecutionProvider", "gpu", lambda: ("fp32",), _tensorrt_options),
        Provider(
            "openvino", "OpenVINOExecutionProvider", "openvino",
            lambda: ("bf16", "fp32") if computes_bf16() else ("fp32",), _openvino_options,
        ),
        Provider("cpu", "CPUExecutionProvider", "serve", lambda: ("fp32",), _cpu_options),
    )
}  # fmt: skip
_AUTO: Final = ("cuda", "openvino", "cpu")
"""What `auto` tries. Not TensorRT, whose first start takes minutes."""


def candidates(wanted: str, available: Collection[str], allow_fallback: bool) -> list[Provider]:
    """The providers to try, in order.

    Args:
        wanted: a key of `PROVIDERS`, or "auto": the fastest that is built in.
        available: what this build of ONNX Runtime has, by its own names.
        allow_fallback: let the CPU serve if `wanted` cannot.

    Raises:
        ProviderError: `wanted` is not in this build, and nothing else may serve.
    """
    names = _AUTO if wanted == "auto" else (wanted, *(("cpu",) if allow_fallback and wanted != "cpu" else ()))
    found = [PROVIDERS[name] for name in names if PROVIDERS[name].onnx_name in available]
    if wanted != "auto" and not allow_fallback and not found:
        missing = PROVIDERS[wanted]
        raise ProviderError(
            f"{missing.onnx_name} is not in this build of ONNX Runtime (it has {', '.join(available)}); install the "
            f"extra `{missing.extra}` in an environment of its own, or set the provider to cpu or allow_fallback"
        )
    return found
